// One step: plan, flatten to rows, run, and hand out what came of it.

#include <algorithm>

#include "engine/backend_choice.h"
#include "engine/clock.h"
#include "engine/engine_core.h"
#include "engine/logprobs.h"

namespace strata::engine {

void EngineCore::Plan() {
  stats_ = {};
  stats_.number = steps_ + 1;
  stats_.begin = Clock::now();
  Expire(stats_.begin);
  scheduler_.Next(pacer_.most_prompt_tokens(), &plan_);
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
  const absl::Status started = model_.decoder->Start(batch_, model_.cache->arena());
  const absl::StatusOr<std::span<const float>> logits =
      started.ok() ? model_.decoder->Finish(batch_) : started;
  const Request::Time forwarded = Clock::now();
  if (logits.ok()) {
    Commit(*logits);
  } else {
    const absl::Status error = absl::InternalError(logits.status().message());
    for (const ScheduledRange& range : plan_.ranges) {
      End(*range.sequence, FinishReason::kError, error);
    }
    if (!model_.backend->Synchronize().ok()) {  // it was not this step alone
      failure_ = error;
      FinishAll(FinishReason::kError, failure_);
    }
  }
  ++steps_;
  last_step_end_ = Clock::now();
  pacer_.Observe(Seconds(stats_.begin, last_step_end_), stats_.decode_tokens,
                 stats_.prefill_tokens);
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
  num_accepted_ = 0;
  const bool backend_chooses = BackendChooses();
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
    if (backend_chooses && end == sequence->size()) AddChoices(*sequence);
    if (sequence->state->wants_attention && end == sequence->size()) {
      AddProbes(sequence->request().attention, end);
    }
    const bool decode = sequence->num_generated() > 0 && end - begin == 1;
    (decode ? stats_.decode_tokens : stats_.prefill_tokens) += end - begin;
    stats_.recomputed_tokens += std::max(0, std::min(end, sequence->most_computed) - begin);
  }
}

// Where logits are wanted for more than a choice the host reads them, those of the whole step.
bool EngineCore::BackendChooses() const {
  return model_.backend->chooses_tokens() && !logits_hook_ &&
         std::none_of(plan_.ranges.begin(), plan_.ranges.end(), [](const ScheduledRange& range) {
           return range.sequence->state->owes_prompt_logprobs;
         });
}

// Of the last row so far, in the order of Accept().
void EngineCore::AddChoices(const Sequence& sequence) {
  for (int32_t i = 0; i < sequence.width(); ++i) {
    batch_.choices.push_back(
        ChoiceOf(sequence, sequence.index + i, model_.info.eos_ids, &batch_.biases));
    batch_.choices.back().row = std::ssize(batch_.logit_rows) - 1;
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
  // None where the backend has chosen from them.
  const size_t row_logits =
      batch_.choices.empty() ? static_cast<size_t>(model_.info.vocab_size) : 0;
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
    const auto of_range = take(logits, rows * row_logits);
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
  const std::span<const float> last = logits.last(std::min(vocab_size, logits.size()));
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

SampledToken EngineCore::Sample(const Sequence& sequence, std::span<const float> logits) {
  if (!batch_.choices.empty()) {
    return TokenOf(model_.decoder->chosen()[num_accepted_++], sequence.sampling());
  }
  if (logits_hook_) logits_hook_(sequence, logits);
  const Request::Time begin = times_sampling_ ? Clock::now() : Request::Time();
  SampledToken sampled = sampler_.Sample(logits, sequence.sampling(),
                                         {.history = sequence.history,
                                          .eos_ids = model_.info.eos_ids,
                                          .num_generated = sequence.num_generated(),
                                          .uniform = UniformFor(sequence, sequence.index)});
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

}  // namespace strata::engine
