#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/serve/request_check.h"
#include "server/generation/generation_request.h"
#include "server/text/stop_strings.h"
#include "server/text/tokenizer.h"
#include "tests/support/byte_tokenizer.h"

namespace strata::testing {

inline void AbortUnless(bool good) {
  if (!good) std::abort();
}

// A refusal is one line that is safe to show to a client.
inline void CheckRefusal(const absl::Status& status) {
  AbortUnless(!status.ok() && !status.message().empty());
  AbortUnless(status.message().find('\n') == absl::string_view::npos);
  AbortUnless(status.message().size() < 2000);
  AbortUnless(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status));
}

// Takes a front's parsed request the way that Generation and the engine do, and checks that an
// accepted one has the properties that they rely on.
inline void FollowToTheEngine(absl::StatusOr<server::GenerationRequest> parsed) {
  static const auto tokenizer = *server::Tokenizer::FromJson(ByteTokenizerJson());
  engine::ModelInfo model;
  model.vocab_size = kTinyVocab;
  model.max_positions = 512;
  model.block_tokens = 16;
  model.cache_tokens = 1024;
  model.eos_ids = {kEosId};
  if (!parsed.ok()) return CheckRefusal(parsed.status());
  const auto stop =
      server::StopStrings::Create(std::move(parsed->stop), parsed->include_stop_string);
  if (!stop.ok()) return CheckRefusal(stop.status());
  const auto request = server::MakeEngineRequest(*std::move(parsed), model, *tokenizer);
  if (!request.ok()) return CheckRefusal(request.status());
  const absl::Status status = engine::CheckRequest(*request, model);
  if (!status.ok()) return CheckRefusal(status);

  const engine::SamplingParams& sampling = request->sampling;
  AbortUnless(!request->id.empty() && request->id.size() <= 128 + 17);  // with the random part
  AbortUnless(!request->prompt.empty());
  for (const int32_t id : request->prompt) AbortUnless(id >= 0 && id < model.vocab_size);
  AbortUnless(sampling.max_tokens >= 0);
  AbortUnless(static_cast<int64_t>(request->prompt.size()) + sampling.max_tokens <=
              model.max_positions);
  AbortUnless(std::isfinite(sampling.temperature) && sampling.temperature >= 0);
  AbortUnless(sampling.top_k >= 0 && sampling.top_p >= 0 && sampling.top_p <= 1);
  AbortUnless(sampling.min_p >= 0 && sampling.min_p <= 1 && sampling.repetition_penalty > 0);
  AbortUnless(std::abs(sampling.frequency_penalty) <= 2);
  AbortUnless(std::abs(sampling.presence_penalty) <= 2);
  AbortUnless(sampling.min_tokens >= 0 && sampling.min_tokens <= sampling.max_tokens);
  for (const engine::LogitBias& bias : sampling.logit_bias) {
    AbortUnless(bias.id >= 0 && bias.id < model.vocab_size && std::isfinite(bias.bias));
  }
  for (const int32_t id : sampling.allowed_ids) AbortUnless(id >= 0 && id < model.vocab_size);
  for (const auto& word : sampling.bad_words) {
    AbortUnless(!word.empty());
    for (const int32_t id : word) AbortUnless(id >= 0 && id < model.vocab_size);
  }
  AbortUnless(request->n >= 1 && request->n <= 64 && std::abs(request->priority) <= 100);
  AbortUnless(sampling.logprobs.value_or(0) >= 0 && sampling.logprobs.value_or(0) <= 20);
  AbortUnless(request->prompt_logprobs.value_or(0) >= 0);
  AbortUnless(request->prompt_logprobs.value_or(0) <= 20 && request->cache_salt.size() <= 256);
}

}  // namespace strata::testing
