// Tokens are chosen where the logits are: a block of threads for each choice.
//
// Tokens stand in order of likelihood, of equals the lower id first. Every cut is the first token
// in that order up to which something sums to more than a target: a count for top-k, weights for
// top-p and for the draw. Weights are whole multiples of 2^-40 of the likeliest's, so that their
// sums depend on no order; the token is found byte by byte of its key, a number that rises as
// likelihood falls.
#include <cmath>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sampling.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kDigits = 256;
constexpr float kWhole = 0x1p40f;  // the likeliest's weight
constexpr uint64_t kEveryKey = ~uint64_t{0};
constexpr uint64_t kNoKey = kEveryKey;
using Sum = unsigned long long;  // NOLINT: what atomicAdd knows

__device__ __forceinline__ bool Possible(float logit) { return fabsf(logit) < INFINITY; }

// -0 equals 0.
__device__ __forceinline__ uint64_t KeyOf(float logit, int64_t id) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  const uint32_t rising = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{~rising} << 32 | static_cast<uint64_t>(id);
}
__device__ __forceinline__ int32_t IdOf(uint64_t key) { return static_cast<int32_t>(key); }

struct Shared {
  Sum digits[kDigits];
  Sum total;
  Sum key;
  Sum target;
  int32_t num_top;
  uint64_t top[kMaxLogprobs];
};

// What tokens weigh: exp((logit - top) / temperature), nothing below the floor.
struct Weighing {
  float top = 0;
  float temperature = 1;
  float floor = -INFINITY;  // in nats over the temperature

  __device__ __forceinline__ bool Keeps(float logit) const {
    return Possible(logit) && (logit - top) / temperature >= floor;
  }
  __device__ __forceinline__ Sum Of(float logit) const {
    return static_cast<Sum>(rintf(expf((logit - top) / temperature) * kWhole));
  }
};

// One row of logits.
class Row {
 public:
  __device__ Row(const float* logits, int64_t vocab, Shared* shared)
      : logits_(logits), vocab_(vocab), shared_(*shared) {}

  __device__ float logit(uint64_t key) const { return logits_[IdOf(key)]; }

  // The sum of measure(logit) over the tokens with keys up to `limit` that `weighing` keeps.
  template <class Measure>
  __device__ uint64_t Total(const Weighing& weighing, uint64_t limit, Measure measure) const {
    if (threadIdx.x == 0) shared_.total = 0;
    __syncthreads();
    Sum sum = 0;
    ForEach(weighing, limit, [&](uint64_t, float logit) { sum += measure(logit); });
    atomicAdd(&shared_.total, sum);
    __syncthreads();
    const uint64_t total = shared_.total;
    __syncthreads();
    return total;
  }

  // The key of the first of those tokens up to which the sum of measure(logit) exceeds `target`.
  // REQUIRES: that of all does.
  template <class Measure>
  __device__ uint64_t Find(const Weighing& weighing, uint64_t limit, uint64_t target,
                           Measure measure) const {
    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
      if (shift < 32 && shift > 0 && vocab_ >> shift == 0) {  // ids are not so long
        prefix <<= 8;
        continue;
      }
      for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) {
        shared_.digits[i] = 0;
      }
      __syncthreads();
      // Neighbours often have the same digit: what they sum to is added at once.
      uint32_t digit = 0;
      Sum sum = 0;
      ForEach(weighing, limit, [&](uint64_t key, float logit) {
        if (shift < 56 && key >> (shift + 8) != prefix) return;
        const auto next = static_cast<uint32_t>(key >> shift & 0xff);
        if (next != digit) {
          if (sum != 0) atomicAdd(&shared_.digits[digit], sum);
          digit = next;
          sum = 0;
        }
        sum += measure(logit);
      });
      if (sum != 0) atomicAdd(&shared_.digits[digit], sum);
      __syncthreads();
      if (threadIdx.x == 0) {
        uint64_t found = 0;
        while (found + 1 < kDigits && shared_.digits[found] <= target) {
          target -= shared_.digits[found++];
        }
        shared_.key = prefix << 8 | found;
        shared_.target = target;
      }
      __syncthreads();
      prefix = shared_.key;
      target = shared_.target;
      __syncthreads();
    }
    return prefix;
  }

  // The key of the likeliest possible token, or kNoKey.
  __device__ uint64_t Likeliest() const {
    uint64_t least = kNoKey;
    for (int64_t id = threadIdx.x; id < vocab_; id += kThreads) {
      if (Possible(logits_[id])) least = min(least, KeyOf(logits_[id], id));
    }
    if (threadIdx.x == 0) shared_.key = kNoKey;
    __syncthreads();
    atomicMin(&shared_.key, static_cast<Sum>(least));
    __syncthreads();
    const uint64_t key = shared_.key;
    __syncthreads();
    return key;
  }

  template <class Visit>
  __device__ __forceinline__ void ForEach(const Weighing& weighing, uint64_t limit,
                                          Visit visit) const {
    for (int64_t id = threadIdx.x; id < vocab_; id += kThreads) {
      const float logit = logits_[id];
      if (!weighing.Keeps(logit)) continue;
      const uint64_t key = KeyOf(logit, id);
      if (key <= limit) visit(key, logit);
    }
  }

 private:
  const float* const logits_;
  const int64_t vocab_;
  Shared& shared_;
};

// A possible token stays possible, however large the sum.
__device__ __forceinline__ float Saturated(double logit) {
  constexpr double kMost = 3.4028234663852886e38;
  return static_cast<float>(fmin(fmax(logit, -kMost), kMost));
}

__device__ float Penalized(float logit, const TokenChoice& how, const SeenToken& seen) {
  const double repetition = how.repetition_penalty;
  double value = logit;
  value = value > 0 ? value / repetition : value * repetition;
  if (seen.generated > 0) {
    value = value - static_cast<double>(how.frequency_penalty) * seen.generated -
            static_cast<double>(how.presence_penalty);
  }
  return Saturated(value);
}

// The row with penalties and biases, in `to`.
__device__ void Adjust(const SamplingArgs& args, const ChoiceEntry& choice, const float* logits,
                       float* to) {
  for (int64_t id = threadIdx.x; id < args.logits.num_cols; id += kThreads) to[id] = logits[id];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < choice.num_seen; i += kThreads) {
    const SeenToken& seen = args.seen[choice.seen + i];
    if (Possible(to[seen.id])) to[seen.id] = Penalized(to[seen.id], choice.how, seen);
  }
  __syncthreads();
  if (threadIdx.x == 0) {  // an id may have several
    for (int64_t i = 0; i < choice.num_biases; ++i) {
      const TokenBias& bias = args.biases[choice.biases + i];
      float& logit = to[bias.id];
      if (bias.bias == kBarred) {
        logit = kBarred;
      } else if (Possible(logit)) {
        logit = Saturated(static_cast<double>(logit) + bias.bias);
      }
    }
  }
  __syncthreads();
}

__device__ int32_t Draw(const Row& row, const TokenChoice& how, uint64_t likeliest) {
  const Weighing weighing = {.top = row.logit(likeliest),
                             .temperature = how.temperature,
                             .floor = how.min_p > 0 ? logf(how.min_p) : -INFINITY};
  const auto one = [](float) { return Sum{1}; };
  const auto weight = [&](float logit) { return weighing.Of(logit); };
  uint64_t limit = kEveryKey;
  if (how.top_k > 0) {
    const auto kept = static_cast<uint64_t>(how.top_k);
    if (row.Total(weighing, limit, one) > kept) limit = row.Find(weighing, limit, kept - 1, one);
  }
  uint64_t total = row.Total(weighing, limit, weight);
  if (how.top_p < 1) {
    const double wanted = ceil(static_cast<double>(total) * static_cast<double>(how.top_p));
    limit = row.Find(weighing, limit, static_cast<uint64_t>(fmax(wanted, 1.0)) - 1, weight);
    total = row.Total(weighing, limit, weight);
  }
  const auto target = static_cast<uint64_t>(static_cast<double>(total) * how.uniform);
  return IdOf(row.Find(weighing, limit, min(target, total - 1), weight));
}

// Of the row as the model made it.
__device__ void TellLogprobs(const Row& row, int32_t num_top, Shared* shared, ChosenToken* chosen) {
  const uint64_t likeliest = row.Likeliest();
  if (likeliest == kNoKey) {
    if (threadIdx.x == 0) {
      chosen->rank = 1;
      chosen->logprob = kBarred;
      chosen->num_top = 0;
    }
    return;
  }
  const Weighing weighing = {.top = row.logit(likeliest)};
  const auto one = [](float) { return Sum{1}; };
  const uint64_t possible = row.Total(weighing, kEveryKey, one);
  const uint64_t total = row.Total(weighing, kEveryKey, [&](float x) { return weighing.Of(x); });
  const double log_total = log(static_cast<double>(total) / static_cast<double>(kWhole));
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - weighing.top - log_total);
  };
  const float own = row.logit(static_cast<uint64_t>(chosen->token));
  const uint64_t ahead =
      Possible(own) ? row.Total(weighing, KeyOf(own, chosen->token), one) - 1 : possible;
  const auto count = min(static_cast<uint64_t>(num_top), possible);
  if (threadIdx.x == 0) shared->num_top = 0;
  __syncthreads();
  if (count > 0) {
    const uint64_t last = row.Find(weighing, kEveryKey, count - 1, one);
    row.ForEach(weighing, last,
                [&](uint64_t key, float) { shared->top[atomicAdd(&shared->num_top, 1)] = key; });
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  chosen->rank = static_cast<int32_t>(ahead) + 1;
  chosen->logprob = Possible(own) ? logprob(own) : kBarred;
  chosen->num_top = static_cast<int32_t>(count);
  for (int32_t i = 0; i < chosen->num_top; ++i) {
    for (int32_t j = i + 1; j < chosen->num_top; ++j) {
      if (shared->top[j] >= shared->top[i]) continue;
      const uint64_t key = shared->top[i];
      shared->top[i] = shared->top[j];
      shared->top[j] = key;
    }
    chosen->top_ids[i] = IdOf(shared->top[i]);
    chosen->top_logprobs[i] = logprob(row.logit(shared->top[i]));
  }
}

__global__ void __launch_bounds__(kThreads)
    SampleKernel(const __grid_constant__ SamplingArgs args) {
  const ChoiceEntry& choice = args.choices[blockIdx.x];
  if (choice.how.row < 0) return;
  const int64_t vocab = args.logits.num_cols;
  const float* const logits = args.logits.data + choice.how.row * args.logits.stride;
  ChosenToken& chosen = args.chosen[blockIdx.x];
  auto* const shared = ptx::SharedMemory<Shared>();
  const float* adjusted = logits;
  if (choice.num_seen > 0 || choice.num_biases > 0) {
    float* const to = args.adjusted + blockIdx.x * vocab;
    Adjust(args, choice, logits, to);
    adjusted = to;
  }
  const Row row(adjusted, vocab, shared);
  const uint64_t likeliest = row.Likeliest();
  int32_t token = likeliest == kNoKey ? 0 : IdOf(likeliest);
  if (choice.how.temperature != 0 && likeliest != kNoKey) token = Draw(row, choice.how, likeliest);
  if (threadIdx.x == 0) chosen.token = args.tokens[blockIdx.x] = token;
  __syncthreads();
  if (choice.how.num_logprobs < 0) return;
  TellLogprobs(Row(logits, vocab, shared), choice.how.num_logprobs, shared, &chosen);
}

}  // namespace

void SampleTokens(Stream& stream, const SamplingArgs& args, int64_t num_choices) {
  stream.Launch("Sample", dim3(static_cast<uint32_t>(num_choices)), dim3(kThreads), sizeof(Shared),
                SampleKernel, args);
}

}  // namespace strata::kernels::cuda
