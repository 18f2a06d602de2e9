#include "server/cli/generate_report.h"

#include <array>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace strata::server {
namespace {

const char* ReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TIME_LIMIT:
      return "time_limit";
    default:
      return "unspecified";
  }
}

nlohmann::ordered_json MetricsJson(const v1::RequestMetrics& metrics) {
  const v1::CacheBytes& peak = metrics.peak_cache_bytes();
  return {{"queue_seconds", metrics.queue_seconds()},
          {"prefill_seconds", metrics.prefill_seconds()},
          {"decode_seconds", metrics.decode_seconds()},
          {"time_to_first_token_seconds", metrics.time_to_first_token_seconds()},
          {"mean_inter_token_seconds", metrics.mean_inter_token_seconds()},
          {"max_inter_token_seconds", metrics.max_inter_token_seconds()},
          {"prompt_tokens", metrics.prompt_tokens()},
          {"cached_tokens", metrics.cached_tokens()},
          {"generated_tokens", metrics.generated_tokens()},
          {"preemptions", metrics.preemptions()},
          {"peak_cache_bytes",
           {{"keys", peak.keys()}, {"values", peak.values()}, {"scores", peak.scores()}}},
          {"plain_cache_bytes", metrics.plain_cache_bytes()}};
}

nlohmann::ordered_json LogprobsJson(const v1::TokenLogprobs& token) {
  auto top = nlohmann::ordered_json::array();
  for (const v1::TokenLogprob& likely : token.top()) {
    top.push_back({{"token_id", likely.token_id()}, {"logprob", likely.logprob()}});
  }
  return {{"logprob", token.logprob()}, {"rank", token.rank()}, {"top", std::move(top)}};
}

nlohmann::ordered_json LogprobsJson(const std::vector<v1::TokenLogprobs>& logprobs) {
  auto list = nlohmann::ordered_json::array();
  for (const v1::TokenLogprobs& token : logprobs) list.push_back(LogprobsJson(token));
  return list;
}

// Adds the sequence's fields to `json`.
void AddSequence(const SequenceResult& sequence, nlohmann::ordered_json* json) {
  (*json)["text"] = sequence.text;
  (*json)["token_ids"] = sequence.token_ids;
  if (!sequence.logprobs.empty()) (*json)["logprobs"] = LogprobsJson(sequence.logprobs);
  (*json)["finish_reason"] = ReasonName(sequence.reason);
  if (sequence.end_token_id) (*json)["end_token_id"] = *sequence.end_token_id;
  if (sequence.end_logprobs) (*json)["end_logprobs"] = LogprobsJson(*sequence.end_logprobs);
  if (!sequence.stop_string.empty()) (*json)["stop_string"] = sequence.stop_string;
  (*json)["metrics"] = MetricsJson(sequence.metrics);
}

std::string Size(uint64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"B", "KiB", "MiB", "GiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return absl::StrFormat("%.*f %s", unit == 0 ? 0 : 1, value, kUnits[unit]);
}

}  // namespace

std::string ResultJson(const GenerateResult& result) {
  nlohmann::ordered_json json;
  if (result.sequences.size() == 1) {
    AddSequence(result.sequences[0], &json);
  } else {
    json["sequences"] = nlohmann::ordered_json::array();
    for (const SequenceResult& sequence : result.sequences) {
      AddSequence(sequence, &json["sequences"].emplace_back());
    }
  }
  json["prompt_token_ids"] = result.prompt_token_ids;
  if (!result.prompt_logprobs.empty()) {
    json["prompt_logprobs"] = LogprobsJson(result.prompt_logprobs);
  }
  json["seed"] = result.seed;
  json["request_id"] = result.request_id;
  return json.dump() + "\n";
}

std::string MetricsText(const v1::RequestMetrics& metrics) {
  const v1::CacheBytes& peak = metrics.peak_cache_bytes();
  const uint64_t held = peak.keys() + peak.values() + peak.scores();
  const double mean = metrics.mean_inter_token_seconds();
  const double plain = static_cast<double>(metrics.plain_cache_bytes());
  std::string text;
  absl::StrAppendFormat(&text, "prompt                %d tokens\n", metrics.prompt_tokens());
  absl::StrAppendFormat(&text, "generated             %d tokens", metrics.generated_tokens());
  if (mean > 0) absl::StrAppendFormat(&text, ", %.1f tokens/s", 1 / mean);
  absl::StrAppendFormat(&text, "\ntime to first token   %.1f ms (queued %.1f ms)\n",
                        1e3 * metrics.time_to_first_token_seconds(), 1e3 * metrics.queue_seconds());
  absl::StrAppendFormat(&text, "between tokens        %.2f ms mean, %.2f ms at most\n", 1e3 * mean,
                        1e3 * metrics.max_inter_token_seconds());
  absl::StrAppendFormat(&text, "cache, at its peak    %s: keys %s, values %s, scores %s\n",
                        Size(held), Size(peak.keys()), Size(peak.values()), Size(peak.scores()));
  absl::StrAppendFormat(&text, "a plain cache         %s", Size(metrics.plain_cache_bytes()));
  if (plain > 0) {
    absl::StrAppendFormat(&text, "; this plan takes %.3f of it", static_cast<double>(held) / plain);
  }
  return text + "\n";
}

}  // namespace strata::server
