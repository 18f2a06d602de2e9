#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/sequence.h"
#include "kvcache/cache_manager.h"

namespace strata::engine {

struct SchedulerOptions {
  int32_t max_batch_tokens = 512;
  int32_t max_prefill_chunk = 512;
  int32_t max_running = 256;
};

// The half-open range of positions [begin, end) that one sequence runs in a step.
struct ScheduledRange {
  Sequence* sequence = nullptr;
  int32_t begin = 0;
  int32_t end = 0;
};

// Who runs when. Waiting requests are admitted in order of arrival, each when its worst case
// (prompt and max_tokens) fits the free blocks, which it then holds: a running sequence never waits
// for a block. One thread.
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, kvcache::CacheManager* cache);

  void Enqueue(std::unique_ptr<Sequence> sequence);
  // Moves from waiting to running whatever fits now. Returns those admitted, oldest first.
  std::vector<Sequence*> Admit();
  // The next step, a pure function of the running sequences: every decode first, then prefill
  // chunks, oldest first, up to max_batch_tokens rows. Empty when nothing runs.
  std::vector<ScheduledRange> Next() const;
  // Takes a sequence out; its blocks go back when the result is destroyed. Null if unknown.
  std::unique_ptr<Sequence> Remove(std::string_view id);

  // In order of arrival.
  const std::deque<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }

  absl::Status CheckIntegrity() const;

 private:
  const SchedulerOptions options_;
  kvcache::CacheManager* const cache_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
};

}  // namespace strata::engine
