// One step: plan, flatten to rows, run, and hand out its tokens.

#include <algorithm>

#include "engine/base/clock.h"
#include "engine/decode/token_choice.h"
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
  const absl::Status status = now_.started.ok() ? model_.decoder->Finish(now_.batch) : now_.started;
  now_.is_under_way = false;
  const Request::Time forwarded = Clock::now();
  if (status.ok()) {
    Commit();
  } else {
    Fail(status);
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
  step->stats.sample_seconds = after.choice_seconds - before.choice_seconds;
}

void EngineCore::RunAhead() {
  if (!model_.backend->asynchronous() || !now_.started.ok() || now_.batch.reads_logits) return;
  const auto is_limited = [](const kernels::TokenChoice& choice) {
    return !choice.allowed.empty();  // the host may have to make it
  };
  if (std::ranges::any_of(now_.batch.choices, is_limited)) return;
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
  batch.reads_logits = logits_hook_ != nullptr;
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
      if (all_logits && !is_last) AddPromptLogprob(*sequence, position + 1);
      batch.token_ids.push_back(is_last ? sequence->newest
                                        : sequence->tokens[static_cast<size_t>(position)]);
      batch.positions.push_back(position);
      batch.slots.push_back(model_.cache->Slot(sequence->blocks, position));
    }
    if (end == sequence->size()) AddChoices(*sequence, end, &batch);
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

// Adds choices of the token at `position` from the last row so far, in the order of Accept().
void EngineCore::AddChoices(const Sequence& sequence, int32_t position, StepBatch* batch) {
  const SamplingParams& params = sequence.sampling();
  for (int32_t i = 0; i < sequence.width(); ++i) {
    const auto index = static_cast<uint32_t>(sequence.index + i);
    const double uniform =
        params.greedy() ? 0 : UniformAt(params.seed, index, static_cast<uint64_t>(position));
    std::vector<kernels::TokenBias>* const biases = batch->NextBiases();
    batch->choices.push_back(ChoiceOf(params,
                                      {.history = sequence.history,
                                       .eos_ids = model_.info.eos_ids,
                                       .output = sequence.output(),
                                       .num_generated = position - sequence.state->prompt_size,
                                       .uniform = uniform},
                                      biases));
    batch->choices.back().row = std::ssize(batch->logit_rows) - 1;
    if (!biases->empty()) batch->KeepBiases();
  }
}

// Adds the choice that reports the log-probabilities of the prompt's token at `position`, from the
// last row so far.
void EngineCore::AddPromptLogprob(const Sequence& sequence, int32_t position) {
  now_.batch.choices.push_back(
      {.row = std::ssize(now_.batch.logit_rows) - 1,
       .temperature = 0,
       .allowed = std::span(sequence.tokens).subspan(static_cast<size_t>(position), 1),
       .num_logprobs = *sequence.request().prompt_logprobs});
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

void EngineCore::Commit() {
  num_accepted_ = 0;
  std::span<const float> probabilities = model_.decoder->probabilities();
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
    const bool tells_attention = range.end == sequence.size() && sequence.state->wants_attention;
    const size_t heads = tells_attention ? sequence.request().attention.size() : 0;
    const size_t count = heads * static_cast<size_t>(range.end);
    CommitRange(range, probabilities.first(count));
    probabilities = probabilities.subspan(count);
  }
}

// probabilities: of the requested heads, if the range ends the sequence.
void EngineCore::CommitRange(const ScheduledRange& range, std::span<const float> probabilities) {
  const Request::Time now = Clock::now();
  Sequence& sequence = *range.sequence;
  sequence.computed = range.end;
  sequence.most_computed = std::max(sequence.most_computed, range.end);
  scheduler_.Publish(sequence);
  if (sequence.state->owes_prompt_logprobs) KeepPromptLogprobs(range);
  if (range.end != sequence.size()) return;  // more of its tokens are to be computed
  if (sequence.forked) {
    Accept(sequence, probabilities, now);
    return;
  }
  const std::vector<Sequence*> forks = scheduler_.Fork(sequence);
  Accept(sequence, probabilities, now);
  for (Sequence* fork : forks) {
    if (fork->computed == 0) {  // there was no room for it
      ++now_.stats.preemptions;
      SetPhase(*fork, Phase::kPreempted, now);
    }
    Accept(*fork, probabilities, now);
  }
}

void EngineCore::KeepPromptLogprobs(const ScheduledRange& range) {
  RequestState& state = *range.sequence->state;
  for (int32_t next = range.begin + 1; next <= std::min(range.end, state.prompt_size - 1); ++next) {
    state.prompt_logprobs[static_cast<size_t>(next) - 1] =
        LogprobsOf(model_.decoder->chosen()[num_accepted_++]);
  }
  if (range.end < state.prompt_size) return;
  state.owes_prompt_logprobs = false;
  state.sink->OnPromptLogprobs(std::exchange(state.prompt_logprobs, {}));
}

void EngineCore::Accept(Sequence& sequence, std::span<const float> probabilities,
                        Request::Time now) {
  const kernels::ChosenToken& chosen = model_.decoder->chosen()[num_accepted_];
  if (logits_hook_) {
    const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
    const auto row = static_cast<size_t>(now_.batch.choices[num_accepted_].row);
    logits_hook_(sequence, model_.decoder->logits().subspan(row * vocab_size, vocab_size));
  }
  ++num_accepted_;
  if (sequence.sampling().max_tokens == 0) {
    End(sequence, FinishReason::kLength, absl::OkStatus());
    return;
  }
  TokenEvent event = {.index = sequence.index,
                      .token = chosen.token,
                      .position = sequence.size(),
                      .attention = {probabilities.begin(), probabilities.end()}};
  if (sequence.sampling().logprobs) event.logprobs = LogprobsOf(chosen);
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
