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

// Rows of a step whose logits are wanted for the log-probabilities of prompts, at most. Each costs
// a row of the vocabulary. Besides these each sequence has one.
constexpr int32_t kMostLogprobRows = 512;

struct SchedulerOptions {
  int32_t max_batch_tokens = 1;
  int32_t max_prefill_chunk = 1;  // of one sequence in a step
  int32_t max_running = 256;      // and no more than max_batch_tokens
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

// Who runs when, in the order of ServedBefore.
//
//              Admit: rows, and room for all its tokens so far    Fork: one for each of n
//   waiting ─────────────────────────────────────────► running ◄──────────┐
//      ▲                                                 │ └──────────────┘
//      └──── preempted: its blocks go, it starts over ───┘ ──► Remove
//
// A sequence takes the blocks of its tokens when it is admitted and then a block whenever its
// newest token needs one. Where scores are stored, score blocks for as many tokens are promised to
// each of its n sequences then, and taken when it decodes. When none is left the last in the order
// is preempted, to be computed again. After kMaxPreemptions it is admitted only with its worst case
// reserved, and never preempted again. A request that alone fits the cache is always served in the
// end: nobody overtakes the first waiting one, and of those running the first can take from all
// others that have no reservation, while those that have one need nothing from anybody.
//
// One thread. The work of a step grows with what runs, not with what waits.
class Scheduler {
 public:
  static constexpr int32_t kMaxPreemptions = 3;

  Scheduler(const SchedulerOptions& options, kvcache::CacheManager* cache);

  void Enqueue(std::unique_ptr<Sequence> sequence);
  // Decides the next step: decodes first, then chunks of prompts, up to max_batch_tokens rows, and
  // up to `most_beside_decodes` rows of prompts where there are decodes, or as many as there are;
  // preempts and admits on the way. Empty when nothing is left to run. Takes the last plan, whose
  // memory it uses again.
  void Next(int32_t most_beside_decodes, StepPlan* plan);
  // The step after `now` before anybody knows the tokens that `now` makes: one more row of each of
  // its sequences, but of those that end with this token by its number. False, and nobody is
  // preempted or admitted, where that is not what Next would do, as far as can be told: where
  // somebody else runs or could be admitted, a sequence needs its token for more than being run, or
  // a block is missing. A range of `now` with no sequence is of one that has ended.
  bool NextAhead(const StepPlan& now, StepPlan* ahead);
  // REQUIRES: running, its prompt computed, not forked. Makes the sequences 1..n-1 of its request.
  // One for whose copied block there is no room waits as if it were preempted.
  std::vector<Sequence*> Fork(Sequence& sequence);
  // Makes full blocks with entries known to the prefix cache.
  void Publish(Sequence& sequence);
  // Takes a sequence out; its blocks go back when the result is destroyed.
  std::unique_ptr<Sequence> Remove(const Sequence& sequence);
  // Those of a request, in order of index. Empty if the id is unknown.
  std::vector<Sequence*> Find(std::string_view request_id) const;

  using Waiting = std::set<std::unique_ptr<Sequence>, ServedBefore>;
  const Waiting& waiting() const { return waiting_; }
  // In the order of service.
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  // Most blocks that the request can ever need at once, all its sequences together; and most score
  // blocks, of which they share none (0 where no scores are stored).
  int64_t WorstCaseBlocks(int32_t prompt_size, int32_t max_tokens, int32_t n) const;
  int64_t WorstCaseScoreBlocks(int32_t prompt_size, int32_t max_tokens, int32_t n) const;

  absl::Status CheckIntegrity() const;

 private:
  bool Reads(const Sequence& sequence) const;
  // What admitting a sequence takes, and what the prefix cache has of it.
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
      const Sequence& sequence) const;  // rows of it in a step, while it is no decode
  bool GrowOrPreempt(size_t place, StepPlan* plan);
  void Preempt(size_t place, StepPlan* plan);
  void InsertRunning(std::unique_ptr<Sequence> sequence);
  bool Protected(const Sequence& sequence) const { return sequence.preemptions >= kMaxPreemptions; }

  const SchedulerOptions options_;
  kvcache::CacheManager* const cache_;
  Waiting waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  int64_t step_ = 0;
  int32_t running_width_ = 0;  // sequences that those running stand for
  absl::flat_hash_map<std::string, std::vector<Sequence*>> by_request_;
};

}  // namespace strata::engine
