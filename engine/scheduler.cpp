#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

namespace strata::engine {

Scheduler::Scheduler(const SchedulerOptions& options, kvcache::CacheManager* cache)
    : options_(options), cache_(cache) {}

void Scheduler::Enqueue(std::unique_ptr<Sequence> sequence) {
  waiting_.push_back(std::move(sequence));
}

std::vector<Sequence*> Scheduler::Admit() {
  std::vector<Sequence*> admitted;
  while (!waiting_.empty() && std::ssize(running_) < options_.max_running) {
    Sequence& oldest = *waiting_.front();
    // Strictly first come, first served: a small request behind a large one waits with it, so the
    // large one is never starved.
    if (!cache_->Grow(oldest.blocks, oldest.worst_case_tokens())) break;
    admitted.push_back(&oldest);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return admitted;
}

std::vector<ScheduledRange> Scheduler::Next() const {
  std::vector<ScheduledRange> step;
  int32_t budget = options_.max_batch_tokens;
  const auto schedule = [&](Sequence* sequence, int32_t limit) {
    const int32_t pending = sequence->size() - sequence->computed;
    const int32_t count = std::min({pending, limit, budget});
    if (count <= 0) return;
    step.push_back({sequence, sequence->computed, sequence->computed + count});
    budget -= count;
  };
  const auto decodes = [](const Sequence& sequence) {
    return sequence.size() - sequence.computed == 1;
  };
  for (const auto& sequence : running_) {
    if (decodes(*sequence)) schedule(sequence.get(), 1);
  }
  for (const auto& sequence : running_) {
    if (!decodes(*sequence)) schedule(sequence.get(), options_.max_prefill_chunk);
  }
  return step;
}

std::unique_ptr<Sequence> Scheduler::Remove(std::string_view id) {
  const auto take = [id](auto& sequences) -> std::unique_ptr<Sequence> {
    const auto found = std::find_if(sequences.begin(), sequences.end(),
                                    [id](const auto& sequence) { return sequence->id == id; });
    if (found == sequences.end()) return nullptr;
    std::unique_ptr<Sequence> taken = std::move(*found);
    sequences.erase(found);
    return taken;
  };
  if (std::unique_ptr<Sequence> sequence = take(running_)) return sequence;
  return take(waiting_);
}

absl::Status Scheduler::CheckIntegrity() const {
  std::vector<const kvcache::BlockTable*> tables;
  for (const auto& sequence : waiting_) {
    if (sequence->blocks.num_blocks() != 0) {
      return absl::InternalError("waiting request " + sequence->id + " holds blocks");
    }
  }
  for (const auto& sequence : running_) {
    if (sequence->computed >= sequence->size()) {
      return absl::InternalError("running request " + sequence->id + " has nothing to run");
    }
    if (sequence->blocks.num_blocks() != cache_->BlocksFor(sequence->worst_case_tokens())) {
      return absl::InternalError("running request " + sequence->id + " lacks reserved blocks");
    }
    tables.push_back(&sequence->blocks);
  }
  return cache_->CheckIntegrity(tables);
}

}  // namespace strata::engine
