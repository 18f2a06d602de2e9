#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/serve/sequence.h"
#include "kvcache/blocks/cache_manager.h"

namespace strata::engine {

// Most rows of a step whose logits are wanted for log-probabilities of prompts. Each costs a row of
// the vocabulary. Each sequence has one more row with logits.
constexpr int32_t kMostLogprobRows = 512;

struct SchedulerOptions {
  int32_t max_batch_tokens = 1;
  int32_t max_prefill_chunk = 1;  // of one sequence in a step
  int32_t max_running = 256;      // sequences, and no more than max_batch_tokens
  bool prefix_cache = true;
};

// The half-open range of positions [begin, end) that one sequence runs in a step.
struct ScheduledRange {
  Sequence* sequence = nullptr;
  int32_t begin = 0;
  int32_t end = 0;
};

struct StepPlan {
  std::vector<ScheduledRange> ranges;
  std::vector<Sequence*> admitted;
  std::vector<Sequence*> preempted;

  void Clear() {
    ranges.clear();
    admitted.clear();
    preempted.clear();
  }
};

// Decides which sequences run in each step, in the order of ServedBefore.
//
//              Admit: rows, and room for all its tokens so far    Fork: one for each of n
//   waiting ─────────────────────────────────────────► running ◄──────────┐
//      ▲                                                 │ └──────────────┘
//      └──── preempted: its blocks go, it starts over ───┘ ──► Remove
//
// A sequence takes the blocks of its tokens when it is admitted, and then one block whenever its
// newest token needs one. If scores are stored, admission also promises score blocks for as many
// tokens to each of its n sequences; they are taken when it decodes. If no block is left, the last
// sequence in the order is preempted, to be computed again. After kMaxPreemptions a sequence is
// admitted only with its worst case reserved, and is never preempted again. A request that alone
// fits the cache is always served in the end: no sequence overtakes the first waiting one; the
// first running sequence can take blocks from all others without a reservation; and a sequence with
// a reservation needs no blocks from others.
//
// One thread. The work of a step grows with the running sequences, not with the waiting ones.
class Scheduler {
 public:
  static constexpr int32_t kMaxPreemptions = 3;

  Scheduler(const SchedulerOptions& options, kvcache::CacheManager* cache);

  void Enqueue(std::unique_ptr<Sequence> sequence);
  // Decides the next step: decodes first, then chunks of prompts, up to max_batch_tokens rows.
  // Beside decodes prompts get at most max(most_beside_decodes, number of decodes) rows. Preempts
  // and admits on the way. The plan is empty if nothing is left to run. Reuses the memory of
  // `plan`.
  void Next(int32_t most_beside_decodes, StepPlan* plan);
  // Plans the step after `now` without the tokens of `now`: one more row of each of its sequences,
  // except sequences whose last token by max_tokens is in `now`. Returns false, and preempts and
  // admits nothing, if Next might decide otherwise: another sequence runs or could be admitted, a
  // sequence needs its token for more than its own next row, or a block is missing. A range of
  // `now` without a sequence belongs to one that has ended.
  bool NextAhead(const StepPlan& now, StepPlan* ahead);
  // REQUIRES: running, its prompt computed, not forked. Makes the sequences 1..n-1 of its request.
  // A sequence without room for its copied block waits as if preempted.
  std::vector<Sequence*> Fork(Sequence& sequence);
  // Publishes full blocks with entries in the prefix cache.
  void Publish(Sequence& sequence);
  // Takes a sequence out; its blocks go back when the result is destroyed.
  std::unique_ptr<Sequence> Remove(const Sequence& sequence);
  // The sequences of a request, in order of index. Empty if the id is unknown.
  std::vector<Sequence*> Find(std::string_view request_id) const;

  using Waiting = std::set<std::unique_ptr<Sequence>, ServedBefore>;
  const Waiting& waiting() const { return waiting_; }
  // In the order of service.
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  // Most blocks that the request can ever need at once, over all its sequences; and most score
  // blocks, which sequences never share (0 if no scores are stored).
  int64_t WorstCaseBlocks(int32_t prompt_size, int32_t max_tokens, int32_t n) const;
  int64_t WorstCaseScoreBlocks(int32_t prompt_size, int32_t max_tokens, int32_t n) const;

  absl::Status CheckIntegrity() const;

 private:
  bool Reads(const Sequence& sequence) const;
  // Blocks that admitting a sequence takes, and its prefix in the cache.
  struct Room {
    kvcache::CacheManager::Hit hit;
    int32_t blocks = 0;
    int32_t score_blocks = 0;
    bool is_there = false;
  };
  Room RoomFor(const Sequence& sequence) const;
  bool HasPlace(const Sequence& first) const;
  bool Admit(Sequence& sequence, StepPlan* plan);
  void AdmitWaiting(int32_t budget, StepPlan* plan);
  int32_t ChunkLimit(
      const Sequence& sequence) const;  // its most rows in a step while its prompt is computed
  bool GrowOrPreempt(size_t place, StepPlan* plan);
  void Preempt(size_t place, StepPlan* plan);
  void InsertRunning(std::unique_ptr<Sequence> sequence);
  bool Protected(const Sequence& sequence) const { return sequence.preemptions >= kMaxPreemptions; }

  const SchedulerOptions options_;
  kvcache::CacheManager* const cache_;
  Waiting waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  int64_t step_ = 0;
  int32_t running_width_ = 0;  // sequences that running ones stand for (Sequence::width)
  absl::flat_hash_map<std::string, std::vector<Sequence*>> by_request_;
};

}  // namespace strata::engine
