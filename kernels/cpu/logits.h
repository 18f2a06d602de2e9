#pragma once

#include <cstdint>
#include <span>

namespace strata::kernels {

// Passes over one row of logits in host memory, for the sampler. Results depend on no instruction
// set. A logit that is not finite is impossible: less likely than any other.

// The first place of the highest logit; -1 if all are impossible.
int64_t ArgMaxLogit(std::span<const float> logits);

// Bins of equal width in nats below the highest logit; the last takes all logits further below.
inline constexpr int32_t kNumLogitBins = 1024;
inline constexpr float kLogitBinsPerNat = 16;

struct LogitWeighing {
  float top = 0;           // the highest logit
  double temperature = 1;  // > 0
  float floor = 0;         // drops lower logits, in nats over the temperature; -inf: nothing
};

// weights[i] = exp(x) within 4 units in the last place and bins[i] = min(-x * kLogitBinsPerNat,
// kNumLogitBins - 1), rounded down, of x = (logits[i] - top) / temperature; 0 and kNumLogitBins if
// the logit is impossible or x < floor. Bins rise as logits fall.
// REQUIRES: three spans of one length.
void WeighLogits(std::span<const float> logits, const LogitWeighing& how, std::span<float> weights,
                 std::span<uint16_t> bins);

// The sum of exp(logit - top) over possible logits; each term within 2 units in the last place.
// REQUIRES: `top` is the highest.
double SumExpLogits(std::span<const float> logits, float top);

}  // namespace strata::kernels
