// A request's life in the engine, from Add to End. The steps in between are in engine_step.cpp.

#include "engine/serve/engine_core.h"

#include <algorithm>

#include "engine/base/clock.h"
#include "engine/serve/request_check.h"
#include "kernels/status_macros.h"
#include "kvcache/base/error_details.h"

namespace strata::engine {

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Create(
    const EngineOptions& options, std::unique_ptr<kernels::Backend> backend) {
  ASSIGN_OR_RETURN(auto model, LoadModel(options, std::move(backend)));
  return std::unique_ptr<EngineCore>(new EngineCore(std::move(model), options));
}

EngineCore::EngineCore(LoadedModel model, const EngineOptions& options)
    : model_(std::move(model)),
      priority_ageing_(options.priority_ageing),
      observer_(options.observer),
      scheduler_({.max_batch_tokens = model_.info.max_batch_tokens,
                  .max_prefill_chunk = model_.info.max_prefill_chunk,
                  .max_running = options.max_running,
                  .prefix_cache = options.prefix_cache},
                 model_.cache.get()),
      pacer_(options.max_step_time, model_.info.max_batch_tokens) {
  if (observer_ == nullptr) return;
  const std::string slow =
      model_.backend->WhyAttentionIsSlow(model_.cache->arena(), model_.cache->planes().head_dim());
  if (!slow.empty()) observer_->OnNote(slow);
}

absl::Status EngineCore::Validate(const Request& request) const {
  RETURN_IF_ERROR(CheckRequest(request, model_.info));
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  const int32_t max_tokens = request.sampling.max_tokens;
  const int64_t worst = scheduler_.WorstCaseBlocks(prompt, max_tokens, request.n);
  const int64_t all = model_.info.cache_tokens / model_.info.block_tokens;
  if (worst > all) {
    return InvalidField("n", request.n, " sequences of up to ", max_tokens,
                        " tokens after a prompt of ", prompt, " take ", worst,
                        " blocks of the cache, it has ", all);
  }
  const int64_t scores = scheduler_.WorstCaseScoreBlocks(prompt, max_tokens, request.n);
  if (scores > all) {
    return InvalidField("n", request.n, " sequences of up to ", max_tokens,
                        " tokens after a prompt of ", prompt, " take ", scores,
                        " blocks of reused scores, the cache has ", all);
  }
  return absl::OkStatus();
}

void EngineCore::Add(Request request, std::shared_ptr<RequestSink> sink, Request::Time submitted) {
  const auto state = std::make_shared<RequestState>();
  auto sequence = std::make_unique<Sequence>();
  sequence->state = state;
  sequence->history = TokenHistory(request.sampling, request.prompt);
  sequence->tokens = std::move(request.prompt);
  sequence->newest = sequence->tokens.back();
  state->sink = std::move(sink);
  state->prompt_size = sequence->size();
  state->submitted = submitted;
  state->rank = submitted + request.priority * priority_ageing_;
  state->number = ++num_requests_;
  state->unfinished = request.n;
  state->owes_prompt_logprobs = request.prompt_logprobs.has_value();
  state->wants_attention = !request.attention.empty();
  if (state->owes_prompt_logprobs) state->prompt_logprobs.resize(sequence->tokens.size() - 1);
  state->request = std::move(request);
  if (state->limit() != Request::Time::max()) limits_.emplace(state->limit(), state.get());
  SetPhase(*sequence, Phase::kQueued, submitted);
  scheduler_.Enqueue(std::move(sequence));
}

bool EngineCore::Finish(std::string_view id, FinishReason reason, const absl::Status& status) {
  const std::vector<Sequence*> sequences = scheduler_.Find(id);
  for (Sequence* sequence : sequences) End(*sequence, reason, status);
  return !sequences.empty();
}

bool EngineCore::Finish(std::string_view id, int32_t index, FinishReason reason,
                        const absl::Status& status) {
  for (Sequence* sequence : scheduler_.Find(id)) {
    if (sequence->index != index || !sequence->forked) continue;
    End(*sequence, reason, status);
    return true;
  }
  return false;
}

void EngineCore::FinishAll(FinishReason reason, const absl::Status& status) {
  while (!scheduler_.running().empty()) End(*scheduler_.running().front(), reason, status);
  while (!scheduler_.waiting().empty()) End(**scheduler_.waiting().begin(), reason, status);
}

void EngineCore::End(Sequence& sequence, FinishReason reason, const absl::Status& status,
                     std::optional<TokenEvent> end_token) {
  if (ahead_.is_under_way) {
    for (ScheduledRange& range : ahead_.plan.ranges) {
      if (range.sequence == &sequence) range.sequence = nullptr;
    }
  }
  const std::unique_ptr<Sequence> owned = scheduler_.Remove(sequence);
  RequestState& state = *owned->state;
  FinishedEvent event = {.index = owned->index,
                         .reason = reason,
                         .status = status,
                         .metrics = MetricsOf(*owned),
                         .end_token = std::move(end_token)};
  owned->blocks.Clear();  // free before observer and sink hear of the end
  state.unfinished -= owned->width();
  if (state.unfinished == 0) {
    limits_.erase({state.limit(), &state});
    if (release_hook_) release_hook_(owned->id());
  }
  for (int32_t i = 0; i < owned->width(); ++i, ++event.index) {
    if (observer_ != nullptr) observer_->OnFinished(owned->id(), event);
    state.sink->OnFinished(event);  // a copy: with an end token there is only one turn
  }
}

// Ends requests at their deadline, with an error, or at their time limit, with their output so far.
void EngineCore::Expire(Request::Time now) {
  while (!limits_.empty() && limits_.begin()->first <= now) {
    const auto [limit, state] = *limits_.begin();
    const std::string id = state->request.id;
    if (state->request.deadline && *state->request.deadline <= limit) {
      Finish(id, FinishReason::kError, absl::DeadlineExceededError("the deadline has passed"));
    } else {
      if (!state->has_started()) {
        state->sink->OnStarted({.prompt_tokens = state->prompt_size, .cached_tokens = 0});
      }
      Finish(id, FinishReason::kTimeLimit, absl::OkStatus());
    }
    if (observer_ != nullptr) {
      observer_->OnAbort(
          {.seconds = Seconds(limit, Clock::now()), .steps = last_step_end_ > limit ? 1 : 0});
    }
  }
}

void EngineCore::SetPhase(Sequence& sequence, Phase phase, Request::Time now) {
  sequence.phase = phase;
  if (observer_ == nullptr) return;
  observer_->OnPhase(
      {.request_id = sequence.id(), .index = sequence.index, .phase = phase, .time = now});
}

RequestMetrics EngineCore::MetricsOf(const Sequence& sequence) const {
  const Request::Time now = Clock::now();
  const RequestState& state = *sequence.state;
  const int32_t generated = sequence.num_generated();
  RequestMetrics metrics;
  metrics.queue_seconds = Seconds(state.submitted, state.has_started() ? state.started : now);
  if (state.has_started()) {
    metrics.prefill_seconds = Seconds(state.started, generated > 0 ? sequence.first_token : now);
  }
  if (generated > 0) {
    metrics.time_to_first_token_seconds = Seconds(state.submitted, sequence.first_token);
    metrics.decode_seconds = Seconds(sequence.first_token, sequence.last_token);
  }
  if (generated > 1) metrics.mean_inter_token_seconds = metrics.decode_seconds / (generated - 1);
  metrics.max_inter_token_seconds = sequence.max_inter_token_seconds;
  metrics.prompt_tokens = state.prompt_size;
  metrics.cached_tokens = state.cached_tokens;
  metrics.generated_tokens = generated;
  metrics.preemptions = sequence.preemptions;

  const kvcache::PlaneMap& planes = model_.cache->planes();
  const size_t tokens = static_cast<size_t>(model_.cache->BlocksFor(sequence.most_computed)) *
                        static_cast<size_t>(planes.block_tokens());
  metrics.peak_key_bytes = tokens * planes.key_bytes_per_token();
  metrics.peak_value_bytes = tokens * planes.value_bytes_per_token();
  if (model_.cache->stores_scores() && sequence.most_computed > state.prompt_size) {
    metrics.peak_score_bytes = tokens * planes.score_bytes_per_token();
  }
  metrics.plain_cache_bytes = tokens * planes.plain_bytes_per_token();
  return metrics;
}

absl::Status EngineCore::CheckIntegrity() const { return scheduler_.CheckIntegrity(); }

}  // namespace strata::engine
