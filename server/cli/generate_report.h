#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "strata/v1/inference.pb.h"

// Output of `strata generate` beside the text. Pure functions.
namespace strata::server {

struct SequenceResult {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<v1::TokenLogprobs> logprobs;  // as many as token_ids, or none
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  std::optional<int32_t> end_token_id;
  std::optional<v1::TokenLogprobs> end_logprobs;
  std::string stop_string;
  v1::RequestMetrics metrics;
};

// A whole answer, collected from the stream.
struct GenerateResult {
  std::string request_id;
  std::vector<int32_t> prompt_token_ids;
  std::vector<v1::TokenLogprobs> prompt_logprobs;
  uint64_t seed = 0;
  std::vector<SequenceResult> sequences;  // by index
};

// One JSON object and a newline; metrics under the names of inference.proto. Several sequences are
// an array "sequences", a single one is in the object itself.
std::string ResultJson(const GenerateResult& result);
// A short table for a person.
std::string MetricsText(const v1::RequestMetrics& metrics);

}  // namespace strata::server
