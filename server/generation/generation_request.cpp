#include "server/generation/generation_request.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/serve/request_check.h"
#include "kvcache/base/error_details.h"

namespace strata::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxBadWords = 1024;
constexpr size_t kMaxBadWordBytes = 256;
constexpr std::string_view kBlanks = " \t\r\n\v\f";
constexpr double kMaxTimeLimitSeconds = 1e6;  // well within the range of a clock's ticks

// Whether `c` could end a line of a log.
bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

uint64_t DrawRandom() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// Number of a prompt's last tokens that the request keeps; 0: all.
absl::StatusOr<int32_t> KeptTokens(const GenerationRequest& request,
                                   const engine::ModelInfo& model) {
  if (!request.truncate_prompt_tokens) return 0;
  const int32_t kept = *request.truncate_prompt_tokens;
  if (kept == -1) {
    const int32_t room = request.fits_max_tokens ? 1 : request.sampling.max_tokens;
    return engine::MostPromptTokens(model, std::max(room, 1), std::max(request.n, 1));
  }
  if (kept >= 1 && kept <= model.max_positions) return kept;
  return InvalidField("truncate_prompt_tokens", kept, " is neither -1 nor in 1..",
                      model.max_positions, ", the model's positions");
}

absl::StatusOr<std::vector<int32_t>> PromptIds(GenerationRequest* request, int32_t kept,
                                               const Tokenizer& tokenizer) {
  if (auto* ids = std::get_if<std::vector<int32_t>>(&request->prompt)) {
    if (kept > 0 && std::ssize(*ids) > kept) ids->erase(ids->begin(), ids->end() - kept);
    return std::move(*ids);
  }
  const auto* text = std::get_if<std::string>(&request->prompt);
  if (text == nullptr) {
    return InvalidField("prompt", "none; give text or token_ids");
  }
  if (text->empty()) {
    return InvalidField("prompt", "empty text; at least one character is needed");
  }
  auto ids = tokenizer.Encode(*text, {.add_special_tokens = request->add_special_tokens,
                                      .parse_special = true,
                                      .most_tokens = static_cast<size_t>(kept)});
  if (ids.ok()) return ids;
  return InField("prompt", ids.status());
}

// Appends the token sequences that spell a word at the beginning of a text and after a space, found
// as in vLLM (vllm/sampling_params.py, update_from_tokenizer): the form with a space in front is
// added if it changes the first token but not the number of tokens.
absl::Status AppendBadWord(const Tokenizer& tokenizer, std::string_view word,
                           std::vector<std::vector<int32_t>>* sequences) {
  const EncodeOptions options = {.add_special_tokens = false, .parse_special = true};
  ASSIGN_OR_RETURN(auto alone, tokenizer.Encode(word, options));
  ASSIGN_OR_RETURN(auto spaced, tokenizer.Encode(absl::StrCat(" ", std::string(word)), options));
  if (alone.empty()) return absl::InvalidArgumentError("a word without tokens");
  const bool differs = spaced.size() == alone.size() && spaced.front() != alone.front();
  sequences->push_back(std::move(alone));
  if (differs) sequences->push_back(std::move(spaced));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<int32_t>>> TokenizeBadWords(
    const std::vector<std::string>& words, const Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> sequences;
  if (words.size() > kMaxBadWords) {
    return InvalidField("bad_words", words.size(), " words is not at most ", kMaxBadWords);
  }
  for (size_t i = 0; i < words.size(); ++i) {
    std::string_view word = words[i];
    word.remove_prefix(std::min(word.find_first_not_of(kBlanks), word.size()));
    if (word.empty() || words[i].size() > kMaxBadWordBytes) {
      return InvalidField(
          "bad_words", "the word at ", i, " is ",
          word.empty() ? "blank" : absl::StrCat("over ", kMaxBadWordBytes, " bytes"));
    }
    if (absl::Status status = AppendBadWord(tokenizer, word, &sequences); !status.ok()) {
      return InvalidField("bad_words", "at ", i, ": ", std::string(status.message()));
    }
  }
  return sequences;
}

// The default of max_tokens, cut to fit beside the prompt. If the prompt leaves no room for a token
// it is 1, so that the engine refuses the request with the limit.
int32_t FittedMaxTokens(const GenerationRequest& request, const engine::ModelInfo& model,
                        size_t prompt_tokens) {
  const int64_t most =
      engine::MostTokens(model, static_cast<int64_t>(prompt_tokens), std::max(request.n, 1));
  return static_cast<int32_t>(std::clamp<int64_t>(most, 1, request.sampling.max_tokens));
}

// The engine's id of the request: the front's own, or a drawn one.
std::string EngineId(const GenerationRequest& request) {
  if (!request.request_id.empty()) return request.request_id;
  const std::string drawn = absl::StrFormat("%016x", DrawRandom());
  return absl::StrCat(request.log_id.empty() ? "gen" : request.log_id, "-", drawn);
}

absl::StatusOr<std::optional<engine::Request::Time>> TimeLimit(std::optional<double> seconds) {
  if (!seconds) return std::nullopt;
  if (!(*seconds > 0 && *seconds <= kMaxTimeLimitSeconds)) {
    return InvalidField("time_limit_seconds", *seconds, " is not above 0 and at most ",
                        kMaxTimeLimitSeconds);
  }
  using Clock = engine::Request::Time::clock;
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*seconds));
}

absl::Status CheckId(const std::string& id) {
  if (id.size() > kMaxRequestIdBytes) {
    return InvalidField("request_id", id.size(), " bytes; at most ", kMaxRequestIdBytes);
  }
  const auto place = std::ranges::find_if(id, IsControl);
  if (place == id.end()) return absl::OkStatus();
  return InvalidField("request_id", "byte ", place - id.begin(), " is the control character ",
                      absl::StrFormat("0x%02x", static_cast<unsigned char>(*place)),
                      "; it may hold none");
}

}  // namespace

absl::StatusOr<engine::Request> MakeEngineRequest(GenerationRequest request,
                                                  const engine::ModelInfo& model,
                                                  const Tokenizer& tokenizer) {
  for (const std::string& id : {request.request_id, request.log_id}) {
    RETURN_IF_ERROR(CheckId(id));
  }
  ASSIGN_OR_RETURN(auto time_limit, TimeLimit(request.time_limit_seconds));
  ASSIGN_OR_RETURN(const auto kept, KeptTokens(request, model));
  ASSIGN_OR_RETURN(auto prompt, PromptIds(&request, kept, tokenizer));
  ASSIGN_OR_RETURN(auto bad_words, TokenizeBadWords(request.bad_words, tokenizer));
  engine::Request work;
  work.id = EngineId(request);
  work.prompt = std::move(prompt);
  if (request.fits_max_tokens) {
    request.sampling.max_tokens = FittedMaxTokens(request, model, work.prompt.size());
  }
  work.sampling = std::move(request.sampling);
  if (request.draws_seed) work.sampling.seed = DrawRandom();
  work.sampling.bad_words = std::move(bad_words);
  work.n = request.n;
  work.priority = request.priority;
  work.deadline = request.deadline;
  work.time_limit = time_limit;
  work.prompt_logprobs = request.prompt_logprobs;
  work.attention = std::move(request.attention);
  work.bypass_prefix_cache = request.bypass_prefix_cache;
  work.cache_salt = std::move(request.cache_salt);
  return work;
}

}  // namespace strata::server
