#include "engine/engine_core.h"

#include <algorithm>

#include "engine/errors.h"
#include "engine/logprobs.h"
#include "engine/request_check.h"
namespace strata::engine {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Request::Time from, Request::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Create(
    const EngineOptions& options, std::unique_ptr<kernels::Backend> backend) {
  auto model = LoadModel(options, std::move(backend));
  if (!model.ok()) return model.status();
  return std::unique_ptr<EngineCore>(new EngineCore(*std::move(model), options));
}

EngineCore::EngineCore(LoadedModel model, const EngineOptions& options)
    : model_(std::move(model)),
      priority_ageing_(options.priority_ageing),
      observer_(options.observer),
      times_sampling_(observer_ != nullptr && observer_->TimesSampling()),
      scheduler_({.max_batch_tokens = options.max_batch_tokens,
                  .max_prefill_chunk = options.max_prefill_chunk,
                  .max_running = options.max_running,
                  .prefix_cache = options.prefix_cache},
                 model_.cache.get()) {}

absl::Status EngineCore::Validate(const Request& request) const {
  if (auto status = CheckRequest(request, model_.info); !status.ok()) return status;
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  const int32_t max_tokens = request.sampling.max_tokens;
  const int64_t worst = scheduler_.WorstCaseBlocks(prompt, max_tokens, request.n);
  const int64_t all = model_.info.cache_tokens / model_.info.block_tokens;
  if (worst > all) {
    return InvalidArgument("n: ", request.n, " sequences of up to ", max_tokens,
                           " tokens after a prompt of ", prompt, " take ", worst,
                           " blocks of the cache, it has ", all);
  }
  const int64_t scores = scheduler_.WorstCaseScoreBlocks(prompt, max_tokens, request.n);
  if (scores > all) {
    return InvalidArgument("n: ", request.n, " sequences of up to ", max_tokens,
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

void EngineCore::End(Sequence& sequence, FinishReason reason, const absl::Status& status) {
  const std::unique_ptr<Sequence> owned = scheduler_.Remove(sequence);
  RequestState& state = *owned->state;
  FinishedEvent event = {
      .index = owned->index, .reason = reason, .status = status, .metrics = MetricsOf(*owned)};
  owned->blocks.Clear();  // free before anybody hears of the end
  state.unfinished -= owned->width();
  if (state.unfinished == 0) {
    limits_.erase({state.limit(), &state});
    if (release_hook_) release_hook_(owned->id());
  }
  for (int32_t i = 0; i < owned->width(); ++i, ++event.index) {
    if (observer_ != nullptr) observer_->OnFinished(owned->id(), event);
    state.sink->OnFinished(event);
  }
}

// Ends what has reached its deadline, with an error, or its time limit, with what was made so far.
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

void EngineCore::Plan() {
  stats_ = {};
  stats_.number = steps_ + 1;
  stats_.begin = Clock::now();
  Expire(stats_.begin);
  scheduler_.Next(&plan_);
  for (Sequence* sequence : plan_.preempted) SetPhase(*sequence, Phase::kPreempted, stats_.begin);
  for (Sequence* sequence : plan_.admitted) {
    SetPhase(*sequence, Phase::kPrefill, stats_.begin);
    RequestState& state = *sequence->state;
    if (state.has_started()) continue;
    state.started = stats_.begin;
    state.sink->OnStarted(
        {.prompt_tokens = state.prompt_size, .cached_tokens = state.cached_tokens});
  }
  Flatten();
  stats_.plan_seconds = Seconds(stats_.begin, Clock::now());
}

void EngineCore::Execute() {
  if (plan_.ranges.empty()) return;
  const Request::Time begin = Clock::now();
  first_token_seconds_.clear();
  inter_token_seconds_.clear();
  const kernels::BackendCounters before = model_.backend->counters();
  const auto logits = model_.decoder->Forward(batch_, model_.cache->arena());
  const Request::Time forwarded = Clock::now();
  if (logits.ok()) {
    Commit(*logits);
  } else {
    const absl::Status error = absl::InternalError(logits.status().message());
    for (const ScheduledRange& range : plan_.ranges) {
      End(*range.sequence, FinishReason::kError, error);
    }
  }
  ++steps_;
  last_step_end_ = Clock::now();
  if (observer_ == nullptr) return;
  const kernels::BackendCounters after = model_.backend->counters();
  stats_.cache_bytes_read = after.cache_bytes_read - before.cache_bytes_read;
  stats_.cache_bytes_written = after.cache_bytes_written - before.cache_bytes_written;
  stats_.running = static_cast<int32_t>(scheduler_.running().size());
  stats_.waiting = static_cast<int32_t>(scheduler_.waiting().size());
  stats_.blocks_used = model_.cache->usage().blocks_used;
  stats_.forward_begin = begin;
  stats_.forward_seconds = Seconds(begin, forwarded);
  stats_.commit_seconds = Seconds(forwarded, last_step_end_);
  stats_.first_token_seconds = first_token_seconds_;
  stats_.inter_token_seconds = inter_token_seconds_;
  observer_->OnStep(stats_);
}

// The sequence whose turn comes `stages` stages of prefetching after turn i; null: there is none.
const Sequence* EngineCore::Ahead(size_t i, size_t stages) const {
  const size_t later = i + stages * kPrefetchAhead;
  return later < plan_.ranges.size() ? plan_.ranges[later].sequence : nullptr;
}

// The plan as rows, and its part of the step's figures.
void EngineCore::Flatten() {
  batch_.Clear();
  stats_.sequences = static_cast<int32_t>(plan_.ranges.size());
  stats_.preemptions = static_cast<int32_t>(plan_.preempted.size());
  for (size_t i = 0; i < plan_.ranges.size(); ++i) {
    if (const Sequence* far = Ahead(i, 2)) far->Prefetch();
    if (const Sequence* near = Ahead(i, 1)) near->PrefetchPointees();
    const auto& [sequence, begin, end] = plan_.ranges[i];
    const kvcache::BlockTable& blocks = sequence->blocks;
    const bool stores = end - begin == 1 && model_.cache->ScoresCover(blocks, end);
    batch_.sequences.push_back({.first_row = batch_.num_rows(),
                                .num_rows = end - begin,
                                .first_position = begin,
                                .block_table = blocks.ids().data(),
                                .score_table = stores ? blocks.score_ids().data() : nullptr});
    const bool all_logits = sequence->state->owes_prompt_logprobs;
    for (int32_t position = begin; position < end; ++position) {
      const bool is_last = position + 1 == sequence->size();
      if (all_logits || is_last) {
        batch_.logit_rows.push_back(static_cast<int32_t>(batch_.num_rows()));
      }
      batch_.token_ids.push_back(is_last ? sequence->newest
                                         : sequence->tokens[static_cast<size_t>(position)]);
      batch_.positions.push_back(position);
      batch_.slots.push_back(model_.cache->Slot(blocks, position));
    }
    if (sequence->state->wants_attention && end == sequence->size()) {
      AddProbes(sequence->request().attention, end);
    }
    const bool decode = sequence->num_generated() > 0 && end - begin == 1;
    (decode ? stats_.decode_tokens : stats_.prefill_tokens) += end - begin;
    stats_.recomputed_tokens += std::max(0, std::min(end, sequence->most_computed) - begin);
  }
}

// Of the last row so far, at position size - 1.
void EngineCore::AddProbes(std::span<const AttentionHead> heads, int32_t size) {
  for (const auto& [layer, head] : heads) {
    const kvcache::HeadRef owner = model_.plan.sources(layer, head).scores;
    batch_.probes.push_back({.sequence = static_cast<int32_t>(batch_.sequences.size()) - 1,
                             .logit = static_cast<int32_t>(batch_.logit_rows.size()) - 1,
                             .layer = owner.layer,
                             .head = owner.head,
                             .offset = batch_.num_probabilities});
    batch_.num_probabilities += static_cast<size_t>(size);
  }
}

void EngineCore::Commit(std::span<const float> logits) {
  const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
  std::span<const float> probabilities = model_.decoder->probabilities();
  const auto take = [](std::span<const float>& all, size_t count) {
    const std::span<const float> first = all.first(count);
    all = all.subspan(count);
    return first;
  };
  for (size_t i = 0; i < plan_.ranges.size(); ++i) {
    if (const Sequence* far = Ahead(i, 3)) far->Prefetch();
    if (const Sequence* next = Ahead(i, 2)) next->PrefetchForCommit();
    if (const Sequence* near = Ahead(i, 1)) near->PrefetchSink();
    const ScheduledRange& range = plan_.ranges[i];
    const Sequence& sequence = *range.sequence;
    const bool ends = range.end == sequence.size();
    const size_t rows = sequence.state->owes_prompt_logprobs
                            ? static_cast<size_t>(range.end - range.begin)
                            : (ends ? 1 : 0);
    const size_t heads =
        ends && sequence.state->wants_attention ? sequence.request().attention.size() : 0;
    const auto of_range = take(logits, rows * vocab_size);
    CommitRange(range, of_range, take(probabilities, heads * static_cast<size_t>(range.end)));
  }
}

// logits: of the range's last row if it ends the sequence; of all its rows where the prompt's
// logprobs are owed. probabilities: of the heads that are asked for, if it ends the sequence.
void EngineCore::CommitRange(const ScheduledRange& range, std::span<const float> logits,
                             std::span<const float> probabilities) {
  const Request::Time now = Clock::now();
  Sequence& sequence = *range.sequence;
  sequence.computed = range.end;
  sequence.most_computed = std::max(sequence.most_computed, range.end);
  scheduler_.Publish(sequence);
  if (sequence.state->owes_prompt_logprobs) KeepPromptLogprobs(range, logits);
  if (range.end != sequence.size()) return;  // more of its prompt to come
  const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
  const std::span<const float> last = logits.last(vocab_size);
  if (sequence.forked) {
    Accept(sequence, last, probabilities, now);
    return;
  }
  const std::vector<Sequence*> forks = scheduler_.Fork(sequence);
  Accept(sequence, last, probabilities, now);
  for (Sequence* fork : forks) {
    if (fork->computed == 0) SetPhase(*fork, Phase::kPreempted, now);  // there was no room for it
    Accept(*fork, last, probabilities, now);
  }
}

void EngineCore::KeepPromptLogprobs(const ScheduledRange& range, std::span<const float> logits) {
  RequestState& state = *range.sequence->state;
  const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
  for (int32_t position = range.begin; position < range.end; ++position) {
    const auto next = static_cast<size_t>(position) + 1;
    const std::span<const float> row = logits.first(vocab_size);
    logits = logits.subspan(vocab_size);
    if (next >= static_cast<size_t>(state.prompt_size)) break;
    state.prompt_logprobs[next - 1] =
        LogprobsOf(row, range.sequence->tokens[next], *state.request.prompt_logprobs);
  }
  if (range.end < state.prompt_size) return;
  state.owes_prompt_logprobs = false;
  state.sink->OnPromptLogprobs(std::exchange(state.prompt_logprobs, {}));
}

void EngineCore::SetPhase(Sequence& sequence, Phase phase, Request::Time now) {
  sequence.phase = phase;
  if (observer_ == nullptr) return;
  observer_->OnPhase(
      {.request_id = sequence.id(), .index = sequence.index, .phase = phase, .time = now});
}

SampledToken EngineCore::Sample(const Sequence& sequence, std::span<const float> logits) {
  if (logits_hook_) logits_hook_(sequence, logits);
  const Request::Time begin = times_sampling_ ? Clock::now() : Request::Time();
  const double uniform =
      sequence.sampling().temperature == 0
          ? 0  // greedy: asks for none
          : UniformAt(sequence.sampling().seed, static_cast<uint32_t>(sequence.index),
                      static_cast<uint64_t>(sequence.size()));
  SampledToken sampled = sampler_.Sample(logits, sequence.sampling(),
                                         {.history = sequence.history,
                                          .eos_ids = model_.info.eos_ids,
                                          .num_generated = sequence.num_generated(),
                                          .uniform = uniform});
  if (times_sampling_) stats_.sample_seconds += Seconds(begin, Clock::now());
  return sampled;
}

void EngineCore::Accept(Sequence& sequence, std::span<const float> logits,
                        std::span<const float> probabilities, Request::Time now) {
  SampledToken sampled = Sample(sequence, logits);
  const int32_t token = sampled.token;
  if (EndsOutput(sequence, token)) {
    End(sequence, FinishReason::kStop, absl::OkStatus());
    return;
  }
  if (sequence.phase != Phase::kDecode && sequence.computed > 0) {
    SetPhase(sequence, Phase::kDecode, now);
  }
  if (sequence.num_generated() == 0) {
    sequence.first_token = now;
    first_token_seconds_.push_back(Seconds(sequence.state->submitted, now));
  } else {
    const double seconds = Seconds(sequence.last_token, now);
    sequence.max_inter_token_seconds = std::max(sequence.max_inter_token_seconds, seconds);
    inter_token_seconds_.push_back(seconds);
  }
  sequence.last_token = now;
  sequence.state->sink->OnToken({.index = sequence.index,
                                 .token = token,
                                 .position = sequence.size(),
                                 .logprobs = std::move(sampled.logprobs),
                                 .attention = {probabilities.begin(), probabilities.end()}});
  sequence.Append(token);
  if (sequence.num_generated() == sequence.sampling().max_tokens) {
    End(sequence, FinishReason::kLength, absl::OkStatus());
  }
}

bool EngineCore::EndsOutput(const Sequence& sequence, int32_t token) const {
  const auto contains = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return (!sequence.sampling().ignore_eos && contains(model_.info.eos_ids)) ||
         contains(sequence.sampling().stop_ids);
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
