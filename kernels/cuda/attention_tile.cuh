// Pieces of the tensor cores' attention kernel: 64 positions of a context on their way from the
// cache through shared memory to the fragments that matrix instructions take.
#pragma once

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/reduce.cuh"

namespace strata::kernels::cuda {

constexpr int kTilePositions = 64;
constexpr int kTileThreads = 128;
// Least blocks on a multiprocessor, for which their shared memory leaves room: of prompts, of
// decode.
constexpr int kTileBlocks = 2;
constexpr int kDecodeBlocks = 3;
constexpr int kTileWarps = kTileThreads / kWarp;
constexpr int kTileStages = 2;

// A tile of [64][kDim] 16-bit numbers in shared memory, in chunks of 16 bytes. Chunks of a row
// change places with the row's number, so that eight rows' chunks of one column lie in different
// banks.
template <int kDim>
struct TileLayout {
  static constexpr int kChunks = kDim / 8;  // of a row
  static constexpr int kBytes = kTilePositions * kDim * 2;
  static __device__ __forceinline__ int Offset(int row, int chunk) {
    const int turn = kChunks >= 8 ? row % 8 : row / 2 % 4;
    return (row * kChunks + turn) * 16 ^ chunk * 16;
  }
};

// Copies 64 positions: keys and values as the cache holds them. kHints: a plane to be kept in the
// second cache is read so that it stays there, the other so that it is evicted first.
template <class Stored, int kDim, bool kHints>
class TileCopier {
 public:
  static constexpr bool kScaled = kHasScale<Stored>;
  // Type of the multiplied numbers: 8-bit numbers become bfloat16, exactly.
  using Number = std::conditional_t<kScaled, BF16, Stored>;
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(Stored));
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kPlaneBytes = kTilePositions * kRowBytes;
  static constexpr int kScaleBytes = kScaled ? 2 * kTilePositions * 4 : 0;  // keys', then values'
  static constexpr int kStageBytes = 2 * kPlaneBytes + kScaleBytes;
  // Tiles of 16 bits are read where they were copied to; tiles of 8 bits are widened first.
  static constexpr int kWidenedBytes = kScaled ? 2 * TileLayout<kDim>::kBytes : 0;
  static constexpr int kRows = 2 * kTilePositions;  // of a stage: the keys', then the values'
  static_assert(kRows == kTileThreads, "a thread looks up one row");
  static constexpr int kFoundBytes = kTileStages * kRows * 8;
  // A row found: bytes from the arena's start, below 0 after the context's end. In 8 bits the
  // token's number in its block stands in the bits from kTokenBit on, as its scale is found by it.
  static constexpr int kTokenBit = 44;
  static constexpr int64_t kRowMask = (int64_t{1} << kTokenBit) - 1;
  static constexpr int kSharedBytes = kTileStages * kStageBytes + kWidenedBytes + kFoundBytes;

  __device__ TileCopier(const AttentionArgs& args, const SequenceEntry& sequence,
                        const GroupEntry& group, bool wants_keys, std::byte* shared)
      : args_(args),
        plane_(threadIdx.x < kTilePositions ? group.keys : group.values),
        table_(args.tables + TableOf(sequence, plane_)),
        wants_keys_(wants_keys),
        hints_(kHints && (group.keep_keys || group.keep_values)),
        key_policy_(hints_ ? ptx::CachePolicy(group.keep_keys) : 0),
        value_policy_(hints_ ? ptx::CachePolicy(group.keep_values) : 0),
        shared_(shared) {}

  // Looks up the rows of positions [begin, min(begin + 64, end)), for an Ask after the next
  // barrier. Reading the table takes as long as reading the cache, so it is done a tile ahead.
  __device__ __forceinline__ void Find(int32_t begin, int32_t end, int stage) {
    const int32_t position = begin + static_cast<int32_t>(threadIdx.x) % kTilePositions;
    int64_t found = -1;
    if (position < end) {
      const CachePlace place = PlaceOf(position, table_, args_.block_tokens);
      const size_t plane = static_cast<size_t>(place.block) * args_.place_bytes + plane_.offset;
      found = static_cast<int64_t>(plane) + int64_t{place.token} * kRowBytes;
      if constexpr (kScaled) found |= int64_t{place.token} << kTokenBit;
    }
    Found(stage)[threadIdx.x] = found;
  }

  // Starts copies of the rows found, into stage `stage`; zeros after the end of the context.
  __device__ __forceinline__ void Ask(int stage) {
    std::byte* const to = shared_ + stage * kStageBytes;
    const int thread = ptx::Anew(static_cast<int>(threadIdx.x));
    const int chunk = thread % kRowChunks;
#pragma unroll 2
    for (int row = thread / kRowChunks; row < kTilePositions; row += kTileThreads / kRowChunks) {
      const int64_t* const found = Found(stage) + row;
      const int offset = StageOffset(row, chunk);
      if (wants_keys_) CopyChunk(to + offset, found[0], chunk, key_policy_);
      CopyChunk(to + kPlaneBytes + offset, found[kTilePositions], chunk, value_policy_);
    }
    if constexpr (kScaled) {
      const int64_t found = Found(stage)[thread];
      const int64_t token = found >> kTokenBit;
      const int64_t from =
          (found & kRowMask) + (args_.block_tokens - token) * kRowBytes + token * 4;
      if (wants_keys_ || thread >= kTilePositions) {
        ptx::CopyAsync4(to + 2 * kPlaneBytes + thread * 4, args_.arena + (found < 0 ? 0 : from),
                        found >= 0);
      }
    }
  }

  // 8 bits: makes bfloat16 tiles of a stage that has arrived. Other threads see them after a
  // barrier.
  __device__ __forceinline__ void Widen(int stage) {
    if constexpr (kScaled) {
      if (wants_keys_) WidenPlane(shared_ + stage * kStageBytes, Widened());
      WidenPlane(shared_ + stage * kStageBytes + kPlaneBytes, Widened() + TileLayout<kDim>::kBytes);
    }
  }

  __device__ __forceinline__ const std::byte* keys(int stage) const {
    return kScaled ? Widened() : shared_ + stage * kStageBytes;
  }
  __device__ __forceinline__ const std::byte* values(int stage) const {
    return kScaled ? Widened() + TileLayout<kDim>::kBytes
                   : shared_ + stage * kStageBytes + kPlaneBytes;
  }
  // Factors of the scores and weights of positions 2t and 2t + 1 of the tile; 8 bits only.
  __device__ __forceinline__ float2 KeyScales(int stage, int position) const {
    return *reinterpret_cast<const float2*>(Scales(stage) + position);
  }
  __device__ __forceinline__ float2 ValueScales(int stage, int position) const {
    return *reinterpret_cast<const float2*>(Scales(stage) + kTilePositions + position);
  }

 private:
  // Copies 16 bytes of a row found; zeros after the context's end.
  __device__ __forceinline__ void CopyChunk(std::byte* to, int64_t found, int chunk,
                                            uint64_t policy) const {
    const bool valid = found >= 0;
    const int64_t row = kScaled ? found & kRowMask : found;
    const std::byte* const from = args_.arena + (valid ? row + chunk * 16 : 0);
    if constexpr (kHints) {
      if (hints_) {
        ptx::CopyAsync16(to, from, valid, policy);
        return;
      }
    }
    ptx::CopyAsync16(to, from, valid);
  }
  static __device__ __forceinline__ int StageOffset(int row, int chunk) {
    return kScaled ? row * kRowBytes + chunk * 16 : TileLayout<kDim>::Offset(row, chunk);
  }
  __device__ __forceinline__ std::byte* Widened() const {
    return shared_ + kTileStages * kStageBytes;
  }
  __device__ __forceinline__ const float* Scales(int stage) const {
    return reinterpret_cast<const float*>(shared_ + stage * kStageBytes + 2 * kPlaneBytes);
  }

  // The stage's rows, [kRows].
  __device__ __forceinline__ int64_t* Found(int stage) const {
    return reinterpret_cast<int64_t*>(shared_ + kTileStages * kStageBytes + kWidenedBytes) +
           stage * kRows;
  }

  // 8 numbers of a row at a time.
  __device__ __forceinline__ void WidenPlane(const std::byte* from, std::byte* to) const {
    for (int i = ptx::Anew(static_cast<int>(threadIdx.x)); i < kTilePositions * kDim / 8;
         i += kTileThreads) {
      const uint2 numbers = *reinterpret_cast<const uint2*>(from + i * 8);
      const auto number = [](uint32_t word, int k) {
        return ToFloat(Stored{static_cast<uint8_t>(word >> 8 * k)});
      };
      const auto pair = [&](uint32_t word, int k) {
        return PackPair<BF16>(number(word, k), number(word, k + 1));
      };
      const int row = i / (kDim / 8);
      *reinterpret_cast<uint4*>(to + TileLayout<kDim>::Offset(row, i % (kDim / 8))) = make_uint4(
          pair(numbers.x, 0), pair(numbers.x, 2), pair(numbers.y, 0), pair(numbers.y, 2));
    }
  }

  const AttentionArgs& args_;
  const PlaneRef& plane_;  // the one whose rows the thread finds
  const int32_t* table_;
  bool wants_keys_;
  bool hints_;
  uint64_t key_policy_;
  uint64_t value_policy_;
  std::byte* shared_;
};

// 16 queries' scores over 16 positions: two tiles of a matrix instruction's result.
// q: fragments of the queries [kDim / 16]; keys: a tile; position: the first of the 16.
template <class Number, int kDim>
__device__ __forceinline__ void MultiplyKeys(const uint32_t (&q)[kDim / 16][4],
                                             const std::byte* keys, int position, int lane,
                                             float (&low)[4], float (&high)[4]) {
  const int row = position + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t pairs[4];
    ptx::LoadMatrices(pairs, keys + TileLayout<kDim>::Offset(row, 2 * k + lane / 8 % 2));
    const uint32_t first[2] = {pairs[0], pairs[1]};
    const uint32_t second[2] = {pairs[2], pairs[3]};
    MultiplyFragments<Number>(low, q[k], first);
    MultiplyFragments<Number>(high, q[k], second);
  }
}

// Adds the tile's values of dimensions [8 chunk, 8 chunk + 8), weighted. p: fragments of the
// weights of 16 queries over the tile's 64 positions.
template <class Number, int kDim>
__device__ __forceinline__ void AddValues(const uint32_t (&p)[kTilePositions / 16][4],
                                          const std::byte* values, int chunk, int lane,
                                          float (&sums)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t pairs[4];
    ptx::LoadMatricesTransposed(pairs, values + TileLayout<kDim>::Offset(32 * half + lane, chunk));
    const uint32_t first[2] = {pairs[0], pairs[1]};
    const uint32_t second[2] = {pairs[2], pairs[3]};
    MultiplyFragments<Number>(sums, p[2 * half], first);
    MultiplyFragments<Number>(sums, p[2 * half + 1], second);
  }
}

}  // namespace strata::kernels::cuda
