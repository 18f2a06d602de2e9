#include "engine/serve/scheduler.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

// One of kFreeShare blocks stays free while sequences run: room for them to grow before one must be
// preempted.
constexpr int32_t kFreeShare = 64;
// Most rows in a step of a prompt whose log-probabilities are owed: other prompts get a turn too.
constexpr int32_t kLogprobChunk = 64;

bool IsDecode(const Sequence& sequence) { return sequence.size() - sequence.computed == 1; }

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, kvcache::CacheManager* cache)
    : options_(options), cache_(cache) {}

void Scheduler::Enqueue(std::unique_ptr<Sequence> sequence) {
  by_request_[sequence->id()].push_back(sequence.get());
  waiting_.insert(std::move(sequence));
}

void Scheduler::Next(int32_t most_beside_decodes, StepPlan* plan) {
  plan->Clear();
  ++step_;
  int32_t budget = options_.max_batch_tokens;
  const auto schedule = [&](Sequence& sequence, int32_t limit) {
    const int32_t pending = sequence.size() - sequence.computed;
    const int32_t count = std::min({pending, limit, budget});
    if (count <= 0) return;
    plan->ranges.push_back({&sequence, sequence.computed, sequence.computed + count});
    sequence.step = step_;
    budget -= count;
  };
  // Preemption takes from the end of running_, never a sequence that is already scheduled.
  for (size_t i = 0; i < running_.size() && budget > 0;) {
    if (i + kPrefetchAhead < running_.size()) running_[i + kPrefetchAhead]->Prefetch();
    if (IsDecode(*running_[i])) {
      if (!GrowOrPreempt(i, plan)) continue;
      schedule(*running_[i], 1);
    }
    ++i;
  }
  const auto decodes = static_cast<int32_t>(plan->ranges.size());
  if (decodes > 0) budget = std::min(budget, std::max(most_beside_decodes, decodes));
  if (plan->preempted.empty()) AdmitWaiting(budget, plan);
  if (plan->ranges.size() == running_.size()) return;
  int32_t logprob_budget = kMostLogprobRows;
  for (const auto& sequence : running_) {
    if (sequence->step == step_) continue;
    if (!sequence->state->owes_prompt_logprobs) {
      schedule(*sequence, ChunkLimit(*sequence));
      continue;
    }
    const int32_t before = budget;
    schedule(*sequence, std::min(ChunkLimit(*sequence), logprob_budget));
    logprob_budget -= before - budget;
  }
}

int32_t Scheduler::ChunkLimit(const Sequence& sequence) const {
  return sequence.state->owes_prompt_logprobs ? std::min(options_.max_prefill_chunk, kLogprobChunk)
                                              : options_.max_prefill_chunk;
}

bool Scheduler::NextAhead(const StepPlan& now, StepPlan* ahead) {
  ahead->Clear();
  size_t alive = 0;
  for (const ScheduledRange& range : now.ranges) {
    const Sequence* const sequence = range.sequence;
    if (sequence == nullptr) continue;
    ++alive;
    const bool decodes = sequence->forked && IsDecode(*sequence) && range.end == sequence->size();
    if (!decodes || sequence->state->wants_attention || sequence->history.enabled() ||
        !sequence->sampling().bad_words.empty()) {
      return false;
    }
  }
  if (alive != running_.size()) return false;
  if (!waiting_.empty()) {
    const Sequence& first = **waiting_.begin();
    if (HasPlace(first) && RoomFor(first).is_there) return false;
  }
  for (const ScheduledRange& range : now.ranges) {
    Sequence* const sequence = range.sequence;
    if (sequence == nullptr) continue;
    if (sequence->num_generated() + 1 == sequence->sampling().max_tokens) continue;
    const int32_t end = range.end + 1;
    // Blocks drawn before a failure are not lost: the sequence needs them for its next row anyway.
    if (!cache_->Grow(sequence->blocks, end) || !cache_->GrowScores(sequence->blocks, end)) {
      return false;
    }
    ahead->ranges.push_back({sequence, range.end, end});
  }
  return !ahead->ranges.empty();
}

// Gives running_[place] the blocks of its newest token, score blocks included, preempting from the
// end if need be. Returns false if it was itself preempted.
bool Scheduler::GrowOrPreempt(size_t place, StepPlan* plan) {
  Sequence& sequence = *running_[place];
  while (!cache_->Grow(sequence.blocks, sequence.size()) ||
         !cache_->GrowScores(sequence.blocks, sequence.size())) {
    size_t last = running_.size() - 1;
    while (Protected(*running_[last])) --last;  // not past `place`: the protected have their blocks
    STRATA_CHECK(last >= place, "a sequence that lacks a block can be preempted");
    Preempt(last, plan);
    if (last == place) return false;
  }
  return true;
}

void Scheduler::Preempt(size_t place, StepPlan* plan) {
  std::unique_ptr<Sequence> sequence = std::move(running_[place]);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(place));
  running_width_ -= sequence->width();
  sequence->blocks.Clear();
  sequence->computed = 0;
  ++sequence->preemptions;
  plan->preempted.push_back(sequence.get());
  waiting_.insert(std::move(sequence));
}

// Admits while the step has rows for more prompts. A sequence that must wait for rows holds no
// blocks meanwhile, and finds more of its prompt in the cache later.
void Scheduler::AdmitWaiting(int32_t budget, StepPlan* plan) {
  int64_t rows = 0;  // of prompts that are served before the first waiting sequence
  for (size_t place = 0; !waiting_.empty();) {
    Sequence& first = **waiting_.begin();
    for (; place < running_.size() && ServedBefore()(running_[place], first); ++place) {
      const Sequence& other = *running_[place];
      if (other.step == step_) continue;
      rows += std::min(other.size() - other.computed, ChunkLimit(other));
    }
    if (rows >= budget || !HasPlace(first)) return;
    // Strictly in order: a small request behind a large one waits with it, so that the large one
    // is served in the end.
    if (!Admit(first, plan)) return;
    InsertRunning(std::move(waiting_.extract(waiting_.begin()).value()));
  }
}

// A running sequence has a row in every step once it decodes. A wide request runs alone if it must.
bool Scheduler::HasPlace(const Sequence& first) const {
  const int32_t most = std::min(options_.max_running, options_.max_batch_tokens);
  return running_.empty() || running_width_ + first.width() <= most;
}

// Whether a cached prefix may be used instead of computing it.
bool Scheduler::Reads(const Sequence& sequence) const {
  return options_.prefix_cache && !sequence.request().bypass_prefix_cache &&
         !sequence.state->owes_prompt_logprobs;
}

Scheduler::Room Scheduler::RoomFor(const Sequence& sequence) const {
  Room room;
  if (Reads(sequence)) {
    room.hit = cache_->FindPrefix(sequence.tokens, sequence.request().cache_salt);
  }
  const int32_t width = sequence.width();
  room.blocks = cache_->BlocksFor(sequence.size());
  room.score_blocks = cache_->stores_scores() ? width * room.blocks : 0;
  if (Protected(sequence)) {
    const int32_t prompt = sequence.state->prompt_size;
    const int32_t max_tokens = sequence.sampling().max_tokens;
    room.blocks = static_cast<int32_t>(WorstCaseBlocks(prompt, max_tokens, width));
    room.score_blocks = static_cast<int32_t>(WorstCaseScoreBlocks(prompt, max_tokens, width));
  }
  const int32_t spare = running_.empty() ? 0 : cache_->usage().blocks_total / kFreeShare;
  const int32_t spare_scores = room.score_blocks > 0 ? spare : 0;
  room.is_there = room.blocks - room.hit.blocks + spare <= cache_->available() - room.hit.idle &&
                  room.score_blocks + spare_scores <= cache_->available_scores();
  return room;
}

bool Scheduler::Admit(Sequence& sequence, StepPlan* plan) {
  const Room room = RoomFor(sequence);
  if (!room.is_there) return false;
  if (Reads(sequence)) {
    sequence.computed =
        cache_->AttachPrefix(sequence.blocks, sequence.tokens, sequence.request().cache_salt);
  }
  const int32_t reserved = Protected(sequence) ? room.blocks - room.hit.blocks : 0;
  STRATA_CHECK(cache_->Reserve(sequence.blocks, reserved, room.score_blocks), "counted before");
  STRATA_CHECK(cache_->Grow(sequence.blocks, sequence.size()), "counted before");
  if (!sequence.state->has_started()) sequence.state->cached_tokens = sequence.computed;
  plan->admitted.push_back(&sequence);
  return true;
}

void Scheduler::InsertRunning(std::unique_ptr<Sequence> sequence) {
  running_width_ += sequence->width();
  const auto place = std::upper_bound(running_.begin(), running_.end(), sequence, ServedBefore());
  running_.insert(place, std::move(sequence));
}

std::vector<Sequence*> Scheduler::Fork(Sequence& sequence) {
  STRATA_CHECK(!sequence.forked && sequence.computed == sequence.size(), "a computed prompt");
  sequence.forked = true;
  const int32_t n = sequence.request().n;
  const auto worst = static_cast<int32_t>(
      WorstCaseBlocks(sequence.state->prompt_size, sequence.sampling().max_tokens, 1));
  const int32_t shared = sequence.computed / cache_->planes().block_tokens();
  const int32_t reserve = Protected(sequence) ? worst - shared : 0;
  // The last row of the prompt may have drawn some of the score blocks promised to all n.
  const int32_t reserve_scores =
      (sequence.blocks.num_reserved_scores() + sequence.blocks.num_score_blocks()) / n;
  std::vector<Sequence*> forks;
  for (int32_t index = 1; index < n; ++index) {
    auto fork = std::make_unique<Sequence>();
    fork->state = sequence.state;
    fork->index = index;
    fork->forked = true;
    fork->tokens = sequence.tokens;
    fork->newest = sequence.newest;
    fork->history = sequence.history;
    fork->preemptions = sequence.preemptions;
    forks.push_back(fork.get());
    by_request_[fork->id()].push_back(fork.get());
    std::optional<kvcache::BlockTable> blocks =
        cache_->Fork(sequence.blocks, sequence.computed, reserve, reserve_scores);
    --running_width_;  // it counted in the width of the unforked sequence
    if (blocks.has_value()) {
      fork->blocks = *std::move(blocks);
      fork->computed = fork->most_computed = sequence.computed;
      InsertRunning(std::move(fork));
    } else {
      ++fork->preemptions;
      fork->most_computed = sequence.computed;
      waiting_.insert(std::move(fork));
    }
  }
  return forks;
}

void Scheduler::Publish(Sequence& sequence) {
  // Usually no block has become full, and nothing of the request is read.
  const int64_t published = sequence.blocks.num_published();
  if (sequence.computed < (published + 1) * cache_->planes().block_tokens()) return;
  if (!options_.prefix_cache || sequence.request().bypass_prefix_cache) return;
  cache_->Publish(sequence.blocks, sequence.tokens, sequence.request().cache_salt,
                  sequence.computed);
}

std::unique_ptr<Sequence> Scheduler::Remove(const Sequence& sequence) {
  const auto entry = by_request_.find(sequence.id());
  std::erase(entry->second, &sequence);
  if (entry->second.empty()) by_request_.erase(entry);

  const auto is_it = [&](const auto& other) { return other.get() == &sequence; };
  const auto before = [](const auto& a, const Sequence& b) { return ServedBefore()(*a, b); };
  const auto place = std::lower_bound(running_.begin(), running_.end(), sequence, before);
  std::unique_ptr<Sequence> taken;
  if (place != running_.end() && is_it(*place)) {
    taken = std::move(*place);
    running_.erase(place);
    running_width_ -= taken->width();
    return taken;
  }
  const auto waiting = waiting_.find(sequence);
  STRATA_CHECK(waiting != waiting_.end() && is_it(*waiting), "a sequence runs or waits");
  return std::move(waiting_.extract(waiting).value());
}

std::vector<Sequence*> Scheduler::Find(std::string_view request_id) const {
  const auto found = by_request_.find(absl::string_view(request_id.data(), request_id.size()));
  return found == by_request_.end() ? std::vector<Sequence*>() : found->second;
}

int64_t Scheduler::WorstCaseBlocks(int32_t prompt_size, int32_t max_tokens, int32_t n) const {
  const int64_t all = cache_->BlocksFor(MostCached(prompt_size, max_tokens));
  const int64_t shared = prompt_size / cache_->planes().block_tokens();
  return shared + n * (all - shared);
}

int64_t Scheduler::WorstCaseScoreBlocks(int32_t prompt_size, int32_t max_tokens, int32_t n) const {
  if (!cache_->stores_scores()) return 0;
  return int64_t{n} * cache_->BlocksFor(MostCached(prompt_size, max_tokens));
}

absl::Status Scheduler::CheckIntegrity() const {
  std::vector<const kvcache::BlockTable*> tables;
  size_t known = 0;
  int32_t width = 0;
  for (const auto& sequence : waiting_) {
    if (sequence->blocks.num_blocks() == 0 && sequence->computed == 0) continue;
    return absl::InternalError(Concat("waiting request ", sequence->id(), " holds blocks"));
  }
  for (const auto& sequence : running_) {
    if (sequence->computed >= sequence->size()) {
      return absl::InternalError(Concat("running request ", sequence->id(), " has nothing to run"));
    }
    if (sequence->blocks.num_blocks() < cache_->BlocksFor(sequence->size() - 1)) {
      return absl::InternalError(Concat("running request ", sequence->id(), " lacks blocks"));
    }
    width += sequence->width();
    tables.push_back(&sequence->blocks);
  }
  for (const auto& [id, sequences] : by_request_) known += sequences.size();
  if (known != waiting_.size() + running_.size() || width != running_width_) {
    return absl::InternalError(Concat(known, " sequences are known by id, ", waiting_.size(),
                                      " wait, ", running_.size(), " run, counted as ",
                                      running_width_, ", as sequences ", width));
  }
  if (!std::is_sorted(running_.begin(), running_.end(), ServedBefore())) {
    return absl::InternalError("those running are out of order");
  }
  return cache_->CheckIntegrity(tables);
}

}  // namespace strata::engine
