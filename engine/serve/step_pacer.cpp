#include "engine/serve/step_pacer.h"

#include <algorithm>

namespace strata::engine {
namespace {

// Recovers quickly after one slow step; shrinks quickly when a step exceeds the limit.
constexpr double kMostDown = 0.5;
constexpr double kMostUp = 1.25;

}  // namespace

StepPacer::StepPacer(std::chrono::duration<double> limit, int32_t most)
    : limit_(limit.count()), most_(most), tokens_(most) {}

void StepPacer::Observe(double seconds, int32_t decodes, int32_t prompt_tokens) {
  if (limit_ == 0 || decodes == 0 || prompt_tokens == 0) return;
  const double change = std::clamp(limit_ / seconds, kMostDown, kMostUp);
  // A step that was not full says nothing about a fuller one.
  if (change > 1 && prompt_tokens < most_prompt_tokens()) return;
  const int32_t fewest = std::min(kFewest, most_);
  tokens_ = std::clamp<double>(tokens_ * change, fewest, most_);
}

}  // namespace strata::engine
