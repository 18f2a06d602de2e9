// Chooses tokens where the logits are: one block of threads for each choice.
//
// Tokens are ordered by likelihood, of equals the lower id first. Every cut is the first token in
// that order up to which a sum exceeds a target: a count for top-k, weights for top-p and for the
// draw. Weights are whole multiples of 2^-40 of the likeliest token's weight, so that sums depend
// on no order. A cut is found in steps: first the token's bin (a bin is an eighth of a nat wide,
// counted from the likeliest), then the token among the listed tokens of that bin, byte by byte of
// its key. A key is a number that rises as likelihood falls.
#include <cmath>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sampling.h"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigits = 256;  // also of bins
constexpr int kDigitsOfLane = kDigits / kWarp;
constexpr float kBinsPerNat = 8;
constexpr uint32_t kMostListed = 4096;
constexpr float kWhole = 0x1p40f;  // the likeliest token's weight
constexpr uint64_t kEveryKey = ~uint64_t{0};
constexpr uint64_t kNoKey = kEveryKey;

__device__ __forceinline__ bool Possible(float logit) { return fabsf(logit) < INFINITY; }

// -0 equals 0.
__device__ __forceinline__ uint64_t KeyOf(float logit, int64_t id) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  const uint32_t rising = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{~rising} << 32 | static_cast<uint64_t>(id);
}
__device__ __forceinline__ int32_t IdOf(uint64_t key) { return static_cast<int32_t>(key); }

// Sums of up to 64 bits, one for each digit, in pieces of 32 bits: shared memory adds 32 bits in
// one instruction, 64 bits in loops of compare and swap. A piece takes few enough bits of each
// addend that a row of tokens does not overflow it; the highest piece takes the rest.
struct DigitSums {
  static constexpr int kMostPieces = 5;
  uint32_t pieces[kMostPieces][kDigits];
};
struct PieceWidth {
  int bits;
  int count;

  explicit __device__ PieceWidth(int64_t vocab)
      : bits(vocab <= int64_t{1} << 18 ? 14 : 8), count(vocab <= int64_t{1} << 18 ? 3 : 5) {}
};

struct Shared {
  DigitSums sums;
  uint64_t of_warp[kWarps];
  uint64_t total;   // of all digits
  uint64_t target;  // left over before the found digit
  uint32_t digit;
  uint32_t num_listed;
  int32_t num_top;
  uint64_t top[kMaxLogprobs];
  uint64_t listed[kMostListed];  // keys
};

// Weights of tokens: exp((logit - top) / temperature), 0 below the floor.
struct Weighing {
  float top = 0;
  float inverse = 1;        // of the temperature
  float floor = -INFINITY;  // in nats over the temperature

  __device__ __forceinline__ float Nats(float logit) const { return (logit - top) * inverse; }
  __device__ __forceinline__ bool Keeps(float logit) const {
    return Possible(logit) && (floor == -INFINITY || Nats(logit) >= floor);
  }
  __device__ __forceinline__ uint64_t Of(float logit) const {
    return static_cast<uint64_t>(rintf(expf(Nats(logit)) * kWhole));
  }
  // Never falls as likelihood falls.
  __device__ __forceinline__ uint32_t Bin(float logit) const {
    return static_cast<uint32_t>(fminf(-Nats(logit) * kBinsPerNat, kDigits - 1));
  }
};

// One row of logits.
class Row {
 public:
  __device__ Row(const float* logits, int64_t vocab, Shared* shared)
      : logits_(logits),
        vocab_(vocab),
        num_wide_(reinterpret_cast<uintptr_t>(logits) % sizeof(float4) == 0 ? vocab / 4 : 0),
        width_(vocab),
        shared_(*shared) {}

  __device__ float logit(uint64_t key) const { return logits_[IdOf(key)]; }

  // The sum of measure(logit) over tokens with keys up to `limit` that `weighing` keeps.
  template <class Measure>
  __device__ uint64_t Total(const Weighing& weighing, uint64_t limit, Measure measure) const {
    uint64_t sum = 0;
    ForEach(weighing, limit, [&](uint64_t, float logit) { sum += measure(logit); });
    return BlockOf(sum, [](uint64_t a, uint64_t b) { return a + b; });
  }

  // The key of the first of these tokens up to which the sum of measure(logit) exceeds
  // target_of(the sum of all); kEveryKey if the sum of all does not.
  template <class TargetOf, class Measure>
  __device__ uint64_t Find(const Weighing& weighing, uint64_t limit, TargetOf target_of,
                           Measure measure) const {
    ClearSums();
    ForEach(weighing, limit,
            [&](uint64_t, float logit) { Add(weighing.Bin(logit), measure(logit)); });
    uint64_t target = 0;
    uint32_t bin = 0;
    if (!FindDigit(target_of, &bin, &target)) return kEveryKey;

    if (threadIdx.x == 0) shared_.num_listed = 0;
    __syncthreads();
    ForEach(weighing, limit, [&](uint64_t key, float logit) {
      if (weighing.Bin(logit) != bin) return;
      const uint32_t place = atomicAdd(&shared_.num_listed, 1u);
      if (place < kMostListed) shared_.listed[place] = key;
    });
    __syncthreads();
    const uint32_t num_listed = shared_.num_listed;

    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
      if (shift < 32 && shift > 0 && vocab_ >> shift == 0) {  // ids have no bits here
        prefix <<= 8;
        continue;
      }
      ClearSums();
      const auto add = [&](uint64_t key, float logit) {
        if (shift < 56 && key >> (shift + 8) != prefix) return;
        Add(static_cast<uint32_t>(key >> shift & 0xff), measure(logit));
      };
      if (num_listed <= kMostListed) {
        for (uint32_t i = threadIdx.x; i < num_listed; i += kThreads) {
          add(shared_.listed[i], logit(shared_.listed[i]));
        }
      } else {
        ForEach(weighing, limit, [&](uint64_t key, float logit) {
          if (weighing.Bin(logit) == bin) add(key, logit);
        });
      }
      uint32_t digit = 0;
      FindDigit([target](uint64_t) { return target; }, &digit, &target);
      prefix = prefix << 8 | digit;
    }
    return prefix;
  }

  // The key of the likeliest possible token, or kNoKey.
  __device__ uint64_t Likeliest() const {
    uint64_t least = kNoKey;
    ForEach({}, kEveryKey, [&](uint64_t key, float) { least = min(least, key); });
    return BlockOf(least, [](uint64_t a, uint64_t b) { return min(a, b); });
  }

  // Calls visit(key, logit) for these tokens, each by one thread.
  template <class Visit>
  __device__ __forceinline__ void ForEach(const Weighing& weighing, uint64_t limit,
                                          Visit visit) const {
    const auto one = [&](int64_t id, float logit) {
      if (!weighing.Keeps(logit)) return;
      const uint64_t key = KeyOf(logit, id);
      if (key <= limit) visit(key, logit);
    };
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < num_wide_; i += kThreads) {
      const float4 four = reinterpret_cast<const float4*>(logits_)[i];
      one(4 * i, four.x);
      one(4 * i + 1, four.y);
      one(4 * i + 2, four.z);
      one(4 * i + 3, four.w);
    }
#pragma unroll 1
    for (int64_t id = 4 * num_wide_ + threadIdx.x; id < vocab_; id += kThreads) {
      one(id, logits_[id]);
    }
  }

 private:
  __device__ void ClearSums() const {
    for (int i = static_cast<int>(threadIdx.x); i < width_.count * kDigits; i += kThreads) {
      shared_.sums.pieces[i / kDigits][i % kDigits] = 0;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void Add(uint32_t digit, uint64_t sum) const {
    const uint32_t mask = (1u << width_.bits) - 1;
#pragma unroll 1
    for (int piece = 0; piece + 1 < width_.count; ++piece) {
      const auto part = static_cast<uint32_t>(sum) & mask;
      if (part != 0) atomicAdd(&shared_.sums.pieces[piece][digit], part);
      sum >>= width_.bits;
    }
    if (sum != 0) {
      atomicAdd(&shared_.sums.pieces[width_.count - 1][digit], static_cast<uint32_t>(sum));
    }
  }

  __device__ __forceinline__ uint64_t SumOf(int digit) const {
    uint64_t sum = 0;
    for (int piece = width_.count - 1; piece >= 0; --piece) {
      sum = (sum << width_.bits) + shared_.sums.pieces[piece][digit];
    }
    return sum;
  }

  // The first digit up to which the sums exceed target_of(their total), and the target less the
  // sums before it. Returns false if they never exceed it. By the first warp, for all.
  template <class TargetOf>
  __device__ bool FindDigit(TargetOf target_of, uint32_t* digit, uint64_t* target) const {
    __syncthreads();
    if (threadIdx.x < kWarp) {
      const int lane = static_cast<int>(threadIdx.x);
      const int first = lane * kDigitsOfLane;
      uint64_t own = 0;
      for (int i = 0; i < kDigitsOfLane; ++i) own += SumOf(first + i);
      uint64_t upto = own;  // the sums of this lane and those before it
      for (int apart = 1; apart < kWarp; apart *= 2) {
        const uint64_t before = __shfl_sync(kWholeWarp, upto, max(lane - apart, 0));
        if (lane >= apart) upto += before;
      }
      const uint64_t total = __shfl_sync(kWholeWarp, upto, kWarp - 1);
      uint64_t left = target_of(total);
      if (lane == 0) {
        shared_.total = total;
        shared_.target = left;
      }
      __syncwarp();
      if (left < upto && left >= upto - own) {  // holds in at most one lane
        left -= upto - own;
        int i = first;
        while (SumOf(i) <= left) left -= SumOf(i++);
        shared_.digit = static_cast<uint32_t>(i);
        shared_.target = left;
      }
    }
    __syncthreads();
    *digit = shared_.digit;
    *target = shared_.target;
    return shared_.target < shared_.total;
  }

  // Combines the values of the whole block.
  template <class Combine>
  __device__ uint64_t BlockOf(uint64_t value, Combine combine) const {
    for (int apart = kWarp / 2; apart > 0; apart /= 2) {
      value = combine(value, __shfl_xor_sync(kWholeWarp, value, apart));
    }
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared_.of_warp[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = shared_.of_warp[0];
    for (int warp = 1; warp < kWarps; ++warp) value = combine(value, shared_.of_warp[warp]);
    return value;
  }

  const float* const logits_;
  const int64_t vocab_;
  const int64_t num_wide_;  // groups of four logits that are read at once
  const PieceWidth width_;
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
  constexpr double kMost = 3.4028234663852886e38;
  const Weighing weighing = {
      .top = row.logit(likeliest),
      .inverse = static_cast<float>(fmin(1 / static_cast<double>(how.temperature), kMost)),
      .floor = how.min_p > 0 ? logf(how.min_p) : -INFINITY};
  const auto one = [](float) { return uint64_t{1}; };
  const auto weight = [&](float logit) { return weighing.Of(logit); };
  uint64_t limit = kEveryKey;
  if (how.top_k > 0) {
    const auto last = static_cast<uint64_t>(how.top_k) - 1;
    limit = row.Find(
        weighing, limit, [last](uint64_t) { return last; }, one);
  }
  if (how.top_p < 1) {
    const auto wanted = [&how](uint64_t total) {
      const double share = ceil(static_cast<double>(total) * static_cast<double>(how.top_p));
      return static_cast<uint64_t>(fmax(share, 1.0)) - 1;
    };
    limit = min(limit, row.Find(weighing, limit, wanted, weight));
  }
  const auto drawn = [&how](uint64_t total) {
    return min(static_cast<uint64_t>(static_cast<double>(total) * how.uniform), total - 1);
  };
  return IdOf(row.Find(weighing, limit, drawn, weight));
}

// Log-probabilities of the row before penalties and biases.
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
  const auto one = [](float) { return uint64_t{1}; };
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
    const uint64_t last = row.Find(
        weighing, kEveryKey, [count](uint64_t) { return count - 1; }, one);
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

__global__ void __launch_bounds__(kThreads, 1)
    SampleKernel(const __grid_constant__ SamplingArgs args) {
  const ChoiceEntry& choice = args.choices[blockIdx.x];
  if (choice.how.row < 0) return;
  const int64_t vocab = args.logits.num_cols;
  const float* const logits = args.logits.data + choice.how.row * args.logits.stride;
  ChosenToken& chosen = args.chosen[blockIdx.x];
  auto* const shared = ptx::SharedMemory<Shared>();
  const float* adjusted = logits;
  if (choice.num_seen > 0 || choice.num_biases > 0) {
    float* const to = args.adjusted + blockIdx.x * AdjustedStride(vocab);
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
