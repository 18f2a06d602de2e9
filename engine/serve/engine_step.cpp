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
  batch.Clear(now_.plan.ranges.size());
  batch.reads_logits = logits_hook_ != nullptr;
  stats.sequences = static_cast<int32_t>(now_.plan.ranges.size());
  stats.preemptions = static_cast<int32_t>(now_.plan.preempted.size());
  for (size_t i = 0; i < now_.plan.ranges.size(); ++i) {
    if (const Sequence* far = Ahead(i, 2)) far->Prefetch();
    if (const Sequence* near = Ahead(i, 1)) near->PrefetchPointees();
    const auto& [sequence, begin, end] = now_.plan.ranges[i];
    AddSequence(now_.plan.ranges[i], &batch);
    const bool owes_logprobs = sequence->state->owes_prompt_logprobs;
    for (int32_t position = begin; position < end; ++position) {
      const bool is_last = position + 1 == sequence->size();
      if (is_last) {
        AddSample(*sequence, position, &batch);
      } else if (owes_logprobs) {
        AddPromptLogprob(*sequence, position);
      }
      batch.token_ids.push_back(is_last ? sequence->newest
                                        : sequence->tokens[static_cast<size_t>(position)]);
      batch.positions.push_back(position);
      batch.slots.push_back(model_.cache->Slot(sequence->blocks, position));
    }
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
  batch.Clear(ahead_.plan.ranges.size());
  int32_t choice = 0;
  for (const ScheduledRange& range : ahead_.plan.ranges) {
    while (now_.plan.ranges[static_cast<size_t>(choice)].sequence != range.sequence) ++choice;
    AddSequence(range, &batch);
    AddSample(*range.sequence, range.begin, &batch);
    batch.token_ids.push_back(~choice);
    batch.positions.push_back(range.begin);
    batch.slots.push_back(model_.cache->Slot(range.sequence->blocks, range.begin));
  }
  ahead_.stats = {};
  ahead_.stats.sequences = ahead_.stats.decode_tokens =
      static_cast<int32_t>(ahead_.plan.ranges.size());
}

// Adds the sequence of the rows that come next.
void EngineCore::AddSequence(const ScheduledRange& range, StepBatch* batch) {
  const kvcache::BlockTable& blocks = range.sequence->blocks;
  const bool stores = range.end - range.begin == 1 && model_.cache->ScoresCover(blocks, range.end);
  batch->tables.push_back(blocks.ids().data());
  batch->sequences.push_back({.first_row = batch->num_rows(),
                              .num_rows = range.end - range.begin,
                              .first_position = range.begin,
                              .block_tables = &batch->tables.back(),
                              .score_table = stores ? blocks.score_ids().data() : nullptr});
}

// Makes the next row, at `position`, an output that gives each sequence its next token, in the
// order of the forks.
void EngineCore::AddSample(const Sequence& sequence, int32_t position, StepBatch* batch) {
  const SamplingParams& params = sequence.sampling();
  const int32_t next = position + 1;
  batch->AddOutput(position, StepBatch::Output::Purpose::kSample);
  for (int32_t i = 0; i < sequence.width(); ++i) {
    const auto index = static_cast<uint32_t>(sequence.index + i);
    const double uniform =
        params.greedy() ? 0 : UniformAt(params.seed, index, static_cast<uint64_t>(next));
    std::vector<kernels::TokenBias>* const biases = batch->NextBiases();
    batch->AddChoice(ChoiceOf(params,
                              {.history = sequence.history,
                               .eos_ids = model_.info.eos_ids,
                               .output = sequence.output(),
                               .num_generated = next - sequence.state->prompt_size,
                               .uniform = uniform},
                              biases));
    if (!biases->empty()) batch->KeepBiases();
  }
}

// Makes the next row, at `position`, an output that tells of the prompt's token after it: the only
// allowed id of the choice.
void EngineCore::AddPromptLogprob(const Sequence& sequence, int32_t position) {
  const std::span<const int32_t> tokens = sequence.tokens;
  now_.batch.AddOutput(position, StepBatch::Output::Purpose::kPromptLogprob);
  now_.batch.AddChoice({.temperature = 0,
                        .allowed = tokens.subspan(static_cast<size_t>(position) + 1, 1),
                        .num_logprobs = *sequence.request().prompt_logprobs});
}

// Adds probes of the last output, whose row is at position size - 1.
void EngineCore::AddProbes(std::span<const AttentionHead> heads, int32_t size) {
  for (const auto& [layer, head] : heads) {
    const kvcache::HeadRef owner = model_.plan.sources(layer, head).scores;
    now_.batch.probes.push_back({.sequence = static_cast<int32_t>(now_.batch.sequences.size()) - 1,
                                 .output = static_cast<int32_t>(now_.batch.outputs.size()) - 1,
                                 .layer = owner.layer,
                                 .head = owner.head,
                                 .offset = now_.batch.num_probabilities});
    now_.batch.num_probabilities += static_cast<size_t>(size);
  }
}

// Hands each range its outputs.
void EngineCore::Commit() {
  std::span<const StepBatch::Output> left = now_.batch.outputs;
  for (size_t i = 0; i < now_.plan.ranges.size(); ++i) {
    if (const Sequence* far = Ahead(i, 3)) far->Prefetch();
    if (const Sequence* next = Ahead(i, 2)) next->PrefetchForCommit();
    if (const Sequence* near = Ahead(i, 1)) near->PrefetchSink();
    size_t count = 0;
    while (count < left.size() && static_cast<size_t>(left[count].range) == i) ++count;
    const ScheduledRange& range = now_.plan.ranges[i];
    // Null: the sequence has ended while the step was under way.
    if (range.sequence != nullptr) CommitRange(range, left.first(count));
    left = left.subspan(count);
  }
}

void EngineCore::CommitRange(const ScheduledRange& range,
                             std::span<const StepBatch::Output> outputs) {
  const Request::Time now = Clock::now();
  Sequence& sequence = *range.sequence;
  sequence.computed = range.end;
  sequence.most_computed = std::max(sequence.most_computed, range.end);
  scheduler_.Publish(sequence);
  if (sequence.state->owes_prompt_logprobs) KeepPromptLogprobs(range, outputs);
  if (outputs.empty() || outputs.back().purpose != StepBatch::Output::Purpose::kSample) {
    return;  // more of its tokens are to be computed
  }
  const StepBatch::Output& sample = outputs.back();
  if (sequence.forked) {
    Accept(sequence, sample, sample.first_choice, now);
    return;
  }
  const std::vector<Sequence*> forks = scheduler_.Fork(sequence);
  size_t choice = sample.first_choice;
  Accept(sequence, sample, choice++, now);
  for (Sequence* fork : forks) {
    if (fork->computed == 0) {  // there was no room for it
      ++now_.stats.preemptions;
      SetPhase(*fork, Phase::kPreempted, now);
    }
    Accept(*fork, sample, choice++, now);
  }
}

void EngineCore::KeepPromptLogprobs(const ScheduledRange& range,
                                    std::span<const StepBatch::Output> outputs) {
  RequestState& state = *range.sequence->state;
  for (const StepBatch::Output& output : outputs) {
    if (output.purpose != StepBatch::Output::Purpose::kPromptLogprob) continue;
    state.prompt_logprobs[static_cast<size_t>(output.position)] =
        LogprobsOf(model_.decoder->chosen()[output.first_choice]);
  }
  if (range.end < state.prompt_size) return;
  state.owes_prompt_logprobs = false;
  state.sink->OnPromptLogprobs(std::exchange(state.prompt_logprobs, {}));
}

// Gives the sequence the token of `choice`.
void EngineCore::Accept(Sequence& sequence, const StepBatch::Output& sample, size_t choice,
                        Request::Time now) {
  if (logits_hook_) {
    const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
    const auto row = static_cast<size_t>(now_.batch.choices[choice].row);
    logits_hook_(sequence, model_.decoder->logits().subspan(row * vocab_size, vocab_size));
  }
  if (sequence.sampling().max_tokens == 0) {
    End(sequence, FinishReason::kLength, absl::OkStatus());
    return;
  }
  const kernels::ChosenToken& chosen = model_.decoder->chosen()[choice];
  TokenEvent event = {.index = sequence.index, .token = chosen.token, .position = sequence.size()};
  if (sequence.sampling().logprobs) event.logprobs = LogprobsOf(chosen);
  if (sequence.state->wants_attention) {
    const size_t seen = static_cast<size_t>(sample.position) + 1;
    const std::span<const float> probabilities = model_.decoder->probabilities().subspan(
        sample.first_probability, sequence.request().attention.size() * seen);
    event.attention.assign(probabilities.begin(), probabilities.end());
  }
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
