// One step: plan, flatten to rows, run, and hand out its tokens.

#include <algorithm>

#include "engine/base/clock.h"
#include "engine/decode/logprobs.h"
#include "engine/serve/backend_choice.h"
#include "engine/serve/engine_core.h"

namespace strata::engine {

void EngineCore::Plan() {
  const Request::Time begin = Clock::now();
  Expire(begin);
  if (ahead_.is_under_way) {
    std::swap(now_, ahead_);
    ahead_.is_under_way = false;
  } else {
    now_.stats = {};
    scheduler_.Next(pacer_.most_prompt_tokens(), &now_.plan);
    for (Sequence* sequence : now_.plan.preempted) SetPhase(*sequence, Phase::kPreempted, begin);
    for (Sequence* sequence : now_.plan.admitted) {
      SetPhase(*sequence, Phase::kPrefill, begin);
      RequestState& state = *sequence->state;
      if (state.has_started()) continue;
      state.started = begin;
      state.sink->OnStarted(
          {.prompt_tokens = state.prompt_size, .cached_tokens = state.cached_tokens});
    }
    Flatten();
  }
  now_.stats.number = steps_ + 1;
  now_.stats.begin = begin;
  now_.stats.plan_seconds = Seconds(begin, Clock::now());
}

void EngineCore::Execute() {
  if (now_.plan.ranges.empty()) return;
  const Request::Time begin = Clock::now();
  first_token_seconds_.clear();
  inter_token_seconds_.clear();
  if (!now_.is_under_way) Start(&now_);
  if (runs_ahead_) RunAhead();
  const absl::StatusOr<std::span<const float>> logits =
      now_.started.ok() ? model_.decoder->Finish(now_.batch) : now_.started;
  now_.is_under_way = false;
  const Request::Time forwarded = Clock::now();
  if (logits.ok()) {
    Commit(*logits);
  } else {
    Fail(logits.status());
  }
  ++steps_;
  last_step_end_ = Clock::now();
  pacer_.Observe(Seconds(now_.stats.begin, last_step_end_), now_.stats.decode_tokens,
                 now_.stats.prefill_tokens);
  if (observer_ != nullptr) TellStep(begin, forwarded);
}

void EngineCore::Start(StepRun* step) {
  const kernels::BackendCounters before = model_.backend->counters();
  step->started = model_.decoder->Start(step->batch, model_.cache->arena());
  step->is_under_way = true;
  const kernels::BackendCounters after = model_.backend->counters();
  step->stats.cache_bytes_read = after.cache_bytes_read - before.cache_bytes_read;
  step->stats.cache_bytes_written = after.cache_bytes_written - before.cache_bytes_written;
}

void EngineCore::RunAhead() {
  if (now_.batch.choices.empty() || !now_.started.ok()) return;
  if (!scheduler_.NextAhead(now_.plan, &ahead_.plan)) return;
  FlattenAhead();
  Start(&ahead_);
  ++steps_ahead_;
}

void EngineCore::Fail(const absl::Status& status) {
  const absl::Status error = absl::InternalError(status.message());
  for (const ScheduledRange& range : now_.plan.ranges) {
    if (range.sequence != nullptr) End(*range.sequence, FinishReason::kError, error);
  }
  if (model_.backend->Synchronize().ok()) return;  // only this step failed
  failure_ = error;
  FinishAll(FinishReason::kError, failure_);
  if (!ahead_.is_under_way) return;
  if (ahead_.started.ok()) model_.decoder->Finish(ahead_.batch).IgnoreError();  // has no requests
  ahead_.is_under_way = false;
}

void EngineCore::TellStep(Request::Time begin, Request::Time forwarded) {
  StepStats& stats = now_.stats;
  stats.running = static_cast<int32_t>(scheduler_.running().size());
  stats.waiting = static_cast<int32_t>(scheduler_.waiting().size());
  stats.blocks_used = model_.cache->usage().blocks_used;
  stats.forward_begin = begin;
  stats.forward_seconds = Seconds(begin, forwarded);
  stats.commit_seconds = Seconds(forwarded, last_step_end_);
  stats.first_token_seconds = first_token_seconds_;
  stats.inter_token_seconds = inter_token_seconds_;
  observer_->OnStep(stats);
  for (const std::string& note : model_.backend->TakeNotes()) observer_->OnNote(note);
}

// The sequence whose turn comes `stages` prefetch stages after turn i; null: none.
const Sequence* EngineCore::Ahead(size_t i, size_t stages) const {
  const size_t later = i + stages * kPrefetchAhead;
  return later < now_.plan.ranges.size() ? now_.plan.ranges[later].sequence : nullptr;
}

// Turns the plan into rows, and fills its part of the step's figures.
void EngineCore::Flatten() {
  StepBatch& batch = now_.batch;
  StepStats& stats = now_.stats;
  batch.Clear();
  const bool backend_chooses = BackendChooses();
  stats.sequences = static_cast<int32_t>(now_.plan.ranges.size());
  stats.preemptions = static_cast<int32_t>(now_.plan.preempted.size());
  for (size_t i = 0; i < now_.plan.ranges.size(); ++i) {
    if (const Sequence* far = Ahead(i, 2)) far->Prefetch();
    if (const Sequence* near = Ahead(i, 1)) near->PrefetchPointees();
    const auto& [sequence, begin, end] = now_.plan.ranges[i];
    AddSequence(now_.plan.ranges[i], &batch);
    const bool all_logits = sequence->state->owes_prompt_logprobs;
    for (int32_t position = begin; position < end; ++position) {
      const bool is_last = position + 1 == sequence->size();
      if (all_logits || is_last) {
        batch.logit_rows.push_back(static_cast<int32_t>(batch.num_rows()));
      }
      batch.token_ids.push_back(is_last ? sequence->newest
                                        : sequence->tokens[static_cast<size_t>(position)]);
      batch.positions.push_back(position);
      batch.slots.push_back(model_.cache->Slot(sequence->blocks, position));
    }
    if (backend_chooses && end == sequence->size()) AddChoices(*sequence, end, &batch);
    if (sequence->state->wants_attention && end == sequence->size()) {
      AddProbes(sequence->request().attention, end);
    }
    const bool decode = sequence->num_generated() > 0 && end - begin == 1;
    (decode ? stats.decode_tokens : stats.prefill_tokens) += end - begin;
    stats.recomputed_tokens += std::max(0, std::min(end, sequence->most_computed) - begin);
  }
}

// Turns the next step's plan into rows; their tokens are the choices of the step under way.
void EngineCore::FlattenAhead() {
  StepBatch& batch = ahead_.batch;
  batch.Clear();
  int32_t choice = 0;
  for (const ScheduledRange& range : ahead_.plan.ranges) {
    while (now_.plan.ranges[static_cast<size_t>(choice)].sequence != range.sequence) ++choice;
    AddSequence(range, &batch);
    batch.logit_rows.push_back(static_cast<int32_t>(batch.num_rows()));
    batch.token_ids.push_back(~choice);
    batch.positions.push_back(range.begin);
    batch.slots.push_back(model_.cache->Slot(range.sequence->blocks, range.begin));
    AddChoices(*range.sequence, range.end, &batch);
  }
  ahead_.stats = {};
  ahead_.stats.sequences = ahead_.stats.decode_tokens =
      static_cast<int32_t>(ahead_.plan.ranges.size());
}

// Adds the sequence of the rows that come next.
void EngineCore::AddSequence(const ScheduledRange& range, StepBatch* batch) {
  const kvcache::BlockTable& blocks = range.sequence->blocks;
  const bool stores = range.end - range.begin == 1 && model_.cache->ScoresCover(blocks, range.end);
  batch->sequences.push_back({.first_row = batch->num_rows(),
                              .num_rows = range.end - range.begin,
                              .first_position = range.begin,
                              .block_table = blocks.ids().data(),
                              .score_table = stores ? blocks.score_ids().data() : nullptr});
}

// The host chooses, from the logits of the whole step, if logits are wanted for more than a choice,
// or if a list of allowed ids would bar nearly all of the vocabulary by biases.
bool EngineCore::BackendChooses() const {
  return model_.backend->chooses_tokens() && !logits_hook_ &&
         std::none_of(now_.plan.ranges.begin(), now_.plan.ranges.end(),
                      [](const ScheduledRange& range) {
                        return range.sequence->state->owes_prompt_logprobs ||
                               !range.sequence->sampling().allowed_ids.empty();
                      });
}

// Adds choices of the token at `position` from the last row so far, in the order of Accept().
void EngineCore::AddChoices(const Sequence& sequence, int32_t position, StepBatch* batch) {
  for (int32_t i = 0; i < sequence.width(); ++i) {
    batch->choices.push_back(
        ChoiceOf(sequence, sequence.index + i, position, model_.info.eos_ids, &batch->biases));
    batch->choices.back().row = std::ssize(batch->logit_rows) - 1;
  }
}

// Adds probes of the last row so far, at position size - 1.
void EngineCore::AddProbes(std::span<const AttentionHead> heads, int32_t size) {
  for (const auto& [layer, head] : heads) {
    const kvcache::HeadRef owner = model_.plan.sources(layer, head).scores;
    now_.batch.probes.push_back({.sequence = static_cast<int32_t>(now_.batch.sequences.size()) - 1,
                                 .logit = static_cast<int32_t>(now_.batch.logit_rows.size()) - 1,
                                 .layer = owner.layer,
                                 .head = owner.head,
                                 .offset = now_.batch.num_probabilities});
    now_.batch.num_probabilities += static_cast<size_t>(size);
  }
}

void EngineCore::Commit(std::span<const float> logits) {
  num_accepted_ = 0;
  // No logits if the backend has chosen from them.
  const size_t row_logits =
      now_.batch.choices.empty() ? static_cast<size_t>(model_.info.vocab_size) : 0;
  std::span<const float> probabilities = model_.decoder->probabilities();
  const auto take = [](std::span<const float>& all, size_t count) {
    const std::span<const float> first = all.first(count);
    all = all.subspan(count);
    return first;
  };
  for (size_t i = 0; i < now_.plan.ranges.size(); ++i) {
    if (const Sequence* far = Ahead(i, 3)) far->Prefetch();
    if (const Sequence* next = Ahead(i, 2)) next->PrefetchForCommit();
    if (const Sequence* near = Ahead(i, 1)) near->PrefetchSink();
    const ScheduledRange& range = now_.plan.ranges[i];
    if (range.sequence == nullptr) {  // has ended under way; skips its one choice
      ++num_accepted_;
      continue;
    }
    const Sequence& sequence = *range.sequence;
    const bool ends = range.end == sequence.size();
    const size_t rows = sequence.state->owes_prompt_logprobs
                            ? static_cast<size_t>(range.end - range.begin)
                            : (ends ? 1 : 0);
    const size_t heads =
        ends && sequence.state->wants_attention ? sequence.request().attention.size() : 0;
    const auto of_range = take(logits, rows * row_logits);
    CommitRange(range, of_range, take(probabilities, heads * static_cast<size_t>(range.end)));
  }
}

// logits: of the range's last row if it ends the sequence; of all its rows while the prompt's
// logprobs are owed. probabilities: of the requested heads, if it ends the sequence.
void EngineCore::CommitRange(const ScheduledRange& range, std::span<const float> logits,
                             std::span<const float> probabilities) {
  const Request::Time now = Clock::now();
  Sequence& sequence = *range.sequence;
  sequence.computed = range.end;
  sequence.most_computed = std::max(sequence.most_computed, range.end);
  scheduler_.Publish(sequence);
  if (sequence.state->owes_prompt_logprobs) KeepPromptLogprobs(range, logits);
  if (range.end != sequence.size()) return;  // more of its tokens are to be computed
  const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
  const std::span<const float> last = logits.last(std::min(vocab_size, logits.size()));
  if (sequence.forked) {
    Accept(sequence, last, probabilities, now);
    return;
  }
  const std::vector<Sequence*> forks = scheduler_.Fork(sequence);
  Accept(sequence, last, probabilities, now);
  for (Sequence* fork : forks) {
    if (fork->computed == 0) {  // there was no room for it
      ++now_.stats.preemptions;
      SetPhase(*fork, Phase::kPreempted, now);
    }
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

SampledToken EngineCore::Sample(const Sequence& sequence, std::span<const float> logits) {
  if (!now_.batch.choices.empty()) {
    return TokenOf(model_.decoder->chosen()[num_accepted_++], sequence.sampling());
  }
  if (logits_hook_) logits_hook_(sequence, logits);
  const Request::Time begin = times_sampling_ ? Clock::now() : Request::Time();
  SampledToken sampled =
      sampler_.Sample(logits, sequence.sampling(),
                      {.history = sequence.history,
                       .eos_ids = model_.info.eos_ids,
                       .output = sequence.output(),
                       .num_generated = sequence.num_generated(),
                       .uniform = UniformFor(sequence, sequence.index, sequence.size())});
  if (times_sampling_) now_.stats.sample_seconds += Seconds(begin, Clock::now());
  return sampled;
}

void EngineCore::Accept(Sequence& sequence, std::span<const float> logits,
                        std::span<const float> probabilities, Request::Time now) {
  SampledToken sampled = Sample(sequence, logits);
  if (sequence.sampling().max_tokens == 0) {
    End(sequence, FinishReason::kLength, absl::OkStatus());
    return;
  }
  TokenEvent event = {.index = sequence.index,
                      .token = sampled.token,
                      .position = sequence.size(),
                      .logprobs = std::move(sampled.logprobs),
                      .attention = {probabilities.begin(), probabilities.end()}};
  if (EndsOutput(sequence, event.token)) {
    End(sequence, FinishReason::kStop, absl::OkStatus(), std::move(event));
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
  sequence.Append(event.token);
  sequence.state->sink->OnToken(std::move(event));
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

}  // namespace strata::engine
