#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/file_marks.h"
#include "engine/base/model_source.h"
#include "engine/base/mutex.h"
#include "engine/serve/engine.h"
#include "kvcache/base/errors.h"
#include "nlohmann/json.hpp"
#include "server/base/read_file.h"
#include "server/cli/commands.h"
#include "server/cli/model_dir.h"
#include "server/cli/standard_output.h"
#include "server/text/tokenizer.h"

namespace strata::server {
namespace {

constexpr int32_t kInFlight = 16;  // windows that the engine has at a time

// Sums the windows' results, and counts windows under way. The engine's thread calls Add and End.
class Tally {
 public:
  // Waits for its turn. Returns the window's number.
  size_t Begin() {
    const MutexLock lock(mutex_);
    while (in_flight_ == kInFlight) changed_.Wait(mutex_);
    ++in_flight_;
    nats_.push_back(0);
    return nats_.size() - 1;
  }
  void Add(size_t window, const std::vector<engine::TokenLogprobs>& tokens) {
    const MutexLock lock(mutex_);
    for (const engine::TokenLogprobs& token : tokens) nats_[window] -= double{token.logprob};
    tokens_ += std::ssize(tokens);
  }
  void End(const absl::Status& status) {
    const MutexLock lock(mutex_);
    if (status_.ok()) status_ = status;
    --in_flight_;
    changed_.NotifyAll();
  }
  // Waits until no window is under way. Returns the sum in nats, in order of windows, and its
  // tokens.
  absl::StatusOr<std::pair<double, int64_t>> Wait() {
    const MutexLock lock(mutex_);
    while (in_flight_ > 0) changed_.Wait(mutex_);
    if (!status_.ok()) return status_;
    return std::pair(std::accumulate(nats_.begin(), nats_.end(), 0.0), tokens_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int32_t in_flight_ STRATA_GUARDED_BY(mutex_) = 0;
  std::vector<double> nats_ STRATA_GUARDED_BY(mutex_);  // of each window
  int64_t tokens_ STRATA_GUARDED_BY(mutex_) = 0;
  absl::Status status_ STRATA_GUARDED_BY(mutex_);
};

class WindowSink final : public engine::RequestSink {
 public:
  WindowSink(Tally* tally, size_t window) : tally_(tally), window_(window) {}
  void OnStarted(const engine::StartedEvent&) override {}
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override {
    tally_->Add(window_, logprobs);
  }
  void OnToken(engine::TokenEvent) override {}
  void OnFinished(engine::FinishedEvent event) override { tally_->End(event.status); }

 private:
  Tally* const tally_;
  const size_t window_;
};

absl::StatusOr<int32_t> WindowOf(const EvalOptions& options, const engine::ModelInfo& model) {
  // One position is left for the token that every request makes.
  const auto most =
      static_cast<int32_t>(std::min(int64_t{model.max_positions} - 1, model.cache_tokens));
  if (options.window == 0) return std::min(most, 2048);
  if (options.window >= 2 && options.window <= most) return options.window;
  return absl::InvalidArgumentError(
      absl::StrCat("--window: ", options.window, " is not in 2..", most));
}

}  // namespace

absl::Status RunEval(const EvalOptions& options) {
  ASSIGN_OR_RETURN(const auto model_dir, FindModelDir(options.model_dir));
  ASSIGN_OR_RETURN(const auto text, ReadFile("--text", options.text));
  RETURN_IF_ERROR(engine::RefuseLfsPointer(absl::StrCat("--text: ", options.text), text));
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--text: ", options.text, " is empty"));
  }
  ASSIGN_OR_RETURN(const auto source, engine::OpenModel(model_dir));
  ASSIGN_OR_RETURN(const auto description, source->Tokenizer());
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Make(description));
  ASSIGN_OR_RETURN(auto ids,
                   tokenizer->Encode(text, {.add_special_tokens = false, .parse_special = true}));
  if (options.tokens > 0 && std::ssize(ids) > options.tokens) {
    ids.resize(static_cast<size_t>(options.tokens));
  }
  Tally tally;  // outlives the engine, which updates it
  engine::EngineOptions engine_options = options.engine;
  engine_options.source = source;
  engine_options.prefix_cache = false;
  const auto engine = engine::Engine::Create(engine_options);
  if (!engine.ok()) return engine.status();
  ASSIGN_OR_RETURN(const auto window, WindowOf(options, (*engine)->model()));

  const auto begin = std::chrono::steady_clock::now();
  size_t bytes = 0;  // of the predicted tokens
  for (size_t at = 0; at + 1 < ids.size(); at += static_cast<size_t>(window)) {
    const size_t end = std::min(ids.size(), at + static_cast<size_t>(window));
    engine::Request request;
    request.id = absl::StrCat(at);
    request.prompt.assign(ids.begin() + static_cast<std::ptrdiff_t>(at),
                          ids.begin() + static_cast<std::ptrdiff_t>(end));
    request.sampling.max_tokens = 1;
    request.prompt_logprobs = 0;
    ASSIGN_OR_RETURN(const auto predicted,
                     tokenizer->Decode(std::span(request.prompt).subspan(1), false));
    bytes += predicted.size();
    const size_t number = tally.Begin();
    RETURN_IF_ERROR(
        (*engine)->Submit(std::move(request), std::make_shared<WindowSink>(&tally, number)));
  }
  ASSIGN_OR_RETURN(const auto sum, tally.Wait());
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto& [nats, tokens] = sum;
  if (tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--text: ", options.text, ": fewer than two tokens"));
  }
  const double per_token = nats / static_cast<double>(tokens);
  const double bits_per_byte = nats / std::log(2.0) / static_cast<double>(bytes);
  if (options.json) {
    return WriteToStdout(nlohmann::ordered_json{{"model", (*engine)->model().name},
                                                {"dtype", (*engine)->model().dtype},
                                                {"cache_dtype", (*engine)->model().plan.dtype},
                                                {"tokens", tokens},
                                                {"bytes", bytes},
                                                {"window", window},
                                                {"nats_per_token", per_token},
                                                {"perplexity", std::exp(per_token)},
                                                {"bits_per_byte", bits_per_byte},
                                                {"seconds", seconds}}
                             .dump() +
                         "\n");
  }
  return WriteToStdout(absl::StrFormat(
      "%s, weights in %s, cache in %s: perplexity %.4f, %.4f nats a token, %.4f bits a byte\n"
      "%d tokens in windows of %d, %.0f tokens/s\n",
      (*engine)->model().name, (*engine)->model().dtype, (*engine)->model().plan.dtype,
      std::exp(per_token), per_token, bits_per_byte, tokens, window,
      static_cast<double>(tokens) / seconds));
}

}  // namespace strata::server
