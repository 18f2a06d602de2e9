// Attention on the tensor cores over a cache in 16 or 8 bits.
//
// A block of four warps takes some queries (rows times heads) of one sequence that read one pair of
// planes, and a run of spans. In prefill each warp has 16 queries of its own and all positions of a
// tile. In decode all warps have the same 16 queries: each computes the scores of 16 positions of a
// tile, the warps exchange all scores through shared memory, and each adds up a quarter of the
// dimensions. Either way the same instructions make an element in the same order: within a span
// tiles of 64 positions in order, each weighed against the largest score so far; spans start anew,
// and are merged left to right.
#include <cmath>

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/merge.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr float kLog2e = 1.44269504088896341f;
constexpr int kTileScores = kTilePositions / 8;  // results of matrix instructions, [4] a lane
constexpr int kScoreStride = kTilePositions + 8;

template <class Stored, int kDim, bool kShared>
class Attender {
 public:
  using Copier = TileCopier<Stored, kDim, /*kHints=*/kShared>;
  using Number = typename Copier::Number;
  static constexpr int kQueries = static_cast<int>(kShared ? kSharedQueries : kTileQueries);
  static constexpr int kChunks = kShared ? kDim / 8 / kTileWarps : kDim / 8;  // of a warp
  static constexpr int kExchangeBytes = kShared ? kQueries * kScoreStride * 4 : 0;
  static constexpr int kTotalBytes = kQueries * kDim * 4;
  static constexpr int kCutBytes = Copier::kSharedBytes + kExchangeBytes;
  static constexpr int kSharedBytes = kCutBytes + kTotalBytes;
  static_assert(kSharedBytes <= 99 * 1024, "more than compute capabilities 8.6 and 8.9 have");

  __device__ Attender(const AttentionArgs& args, const TensorLaunch& launch)
      : args_(args),
        launch_(launch),
        sequence_(args.sequences[blockIdx.z]),
        group_(args.groups[blockIdx.x / launch.query_tiles]),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        g_(lane_ / 4),
        t_(lane_ % 4),
        exchange_(reinterpret_cast<float*>(ptx::SharedMemory<std::byte>() + Copier::kSharedBytes)),
        totals_(exchange_ + kExchangeBytes / 4) {}

  __device__ void Run() {
    const int32_t queries = sequence_.num_rows * group_.num_heads;
    const int32_t first_query = static_cast<int32_t>(blockIdx.x) % launch_.query_tiles * kQueries;
    if (first_query >= queries) return;
    const int32_t last_row = (min(first_query + kQueries, queries) - 1) / group_.num_heads;
    const int32_t context = sequence_.first_position + last_row + 1;
    const SpanRun run =
        RunOf(static_cast<int32_t>(blockIdx.y), launch_.spans_per_run, SpansOf(context));
    if (run.begin == run.end) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) FindRow(i, first_query, queries);
    const HeadEntry& head = args_.heads[group_.first_head];  // all of a group read scores, or none
    keeps_scores_ = kShared && sequence_.score_table >= 0;
    finds_scores_ = keeps_scores_ && head.reused_lse != nullptr && head.score_slot >= 0;
    if (!finds_scores_) LoadQueries();

    Copier copier(args_, sequence_, group_, !finds_scores_, ptx::SharedMemory<std::byte>());
    const int32_t begin = run.begin * kSpan;
    const int32_t end = min(run.end * kSpan, context);
    copier.Find(begin, end, 0);
    copier.Find(begin + kTilePositions, end, 1);
    __syncthreads();
    copier.Ask(0);
    ptx::CommitCopies();
    int stage = 0;
    for (int32_t tile = begin; tile < end; tile += kTilePositions) {
      if (tile + kTilePositions < end) copier.Ask(1 - stage);
      ptx::CommitCopies();
      ptx::WaitCopies<1>();
      __syncthreads();  // the tile is there, and copies of all places found have started
      copier.Find(tile + 2 * kTilePositions, end, stage);
      if constexpr (Copier::kScaled) {
        copier.Widen(stage);
        __syncthreads();
      }
      if (tile % kSpan == 0) StartSpan();
      AttendTile(copier, stage, tile);
      const bool last = tile + kTilePositions >= end;
      if (last || (tile + kTilePositions) % kSpan == 0) EndSpan(tile / kSpan, run.begin);
      __syncthreads();  // no thread reads the stage any more
      stage = 1 - stage;
    }
    ptx::WaitCopies<0>();
    if (launch_.runs == 1) Finish();
  }

 private:
  // One of a lane's two queries: row g or g + 8 of its warp's fragments.
  struct Query {
    int32_t row = 0;        // of the batch
    int32_t position = -1;  // the last it sees; -1: no query
    int32_t head = 0;       // of the launch
    bool reuses = false;
    float most = -INFINITY;  // of the span so far, or the reused log-sum-exp
    float sum = 0;           // of this lane's positions
    float total_most = -INFINITY;
    float total_sum = 0;
  };

  __device__ __forceinline__ int FirstLine() const { return kShared ? 0 : warp_ * 16; }
  __device__ __forceinline__ int FirstChunk() const { return kShared ? warp_ * kChunks : 0; }

  __device__ __forceinline__ void FindRow(int i, int32_t first_query, int32_t queries) {
    Query& query = query_[i];
    const int32_t number = first_query + FirstLine() + g_ + 8 * i;
    if (number >= queries) return;
    const int32_t row = number / group_.num_heads;
    query.row = static_cast<int32_t>(sequence_.first_row) + row;
    query.position = sequence_.first_position + row;
    query.head = group_.first_head + number % group_.num_heads;
    const HeadEntry& head = args_.heads[query.head];
    query.reuses = head.reused_lse != nullptr;
    if (query.reuses) query.most = head.reused_lse[query.row * head.lse_stride];
  }

  __device__ __forceinline__ void LoadQueries() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool valid = query_[i].position >= 0;
      const HeadEntry& head = args_.heads[query_[i].head];
      const float* const from = head.query + query_[i].row * head.query_stride;
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int d = 16 * k + 8 * half + 2 * t_;
          q_[k][2 * half + i] = valid ? PackPair<Number>(from[d], from[d + 1]) : 0;
        }
      }
    }
  }

  __device__ __forceinline__ void StartSpan() {
#pragma unroll
    for (Query& query : query_) {
      if (!query.reuses) query.most = -INFINITY;
      query.sum = 0;
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      for (int i = 0; i < 4; ++i) values_[c][i] = 0;
    }
  }

  // Scores of the warp's queries over 16 positions, scaled; -infinity for positions that a query
  // does not see. Writes or reads stored scores.
  __device__ __forceinline__ void ScoreSixteen(const Copier& copier, int stage, int32_t tile,
                                               int position, int lane, float (&low)[4],
                                               float (&high)[4]) {
    for (int i = 0; i < 4; ++i) low[i] = high[i] = 0;
    if (!finds_scores_) {
      MultiplyKeys<Number, kDim>(q_, copier.keys(stage), position, lane, low, high);
    }
    FinishScores(copier, stage, tile, position + 2 * t_, low);
    FinishScores(copier, stage, tile, position + 8 + 2 * t_, high);
  }
  __device__ __forceinline__ void FinishScores(const Copier& copier, int stage, int32_t tile,
                                               int position, float (&scores)[4]) {
    if (!finds_scores_) {
      float2 scales = make_float2(1, 1);
      if constexpr (Copier::kScaled) scales = copier.KeyScales(stage, position);
      for (int i = 0; i < 4; ++i) {
        if constexpr (Copier::kScaled) scores[i] *= i % 2 == 0 ? scales.x : scales.y;
        scores[i] *= args_.scale;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Query& query = query_[i / 2];
      const int32_t at = tile + position + i % 2;
      const bool sees = at <= query.position;
      if (keeps_scores_ && sees && args_.heads[query.head].score_slot >= 0) {
        float* const kept = Kept(query, at);
        if (finds_scores_) {
          scores[i] = *kept;
        } else {
          *kept = scores[i];
        }
      }
      if (!sees) scores[i] = -INFINITY;
    }
  }
  __device__ __forceinline__ float* Kept(const Query& query, int32_t position) const {
    const CachePlace place =
        PlaceOf(position, args_.tables + sequence_.score_table, args_.block_tokens);
    return args_.scores + ScoreIndex(place, args_.score_slots, args_.heads[query.head].score_slot,
                                     args_.block_tokens);
  }

  __device__ __forceinline__ void AttendTile(const Copier& copier, int stage, int32_t tile) {
    const int lane = ptx::Anew(lane_);  // some forty addresses of fragments depend on it
    float scores[kTileScores][4];
    if constexpr (kShared) {
      float low[4];
      float high[4];
      const int position = 16 * warp_;
      ScoreSixteen(copier, stage, tile, position, lane, low, high);
      for (int i = 0; i < 2; ++i) {
        float* const line = exchange_ + (g_ + 8 * i) * kScoreStride + position + 2 * t_;
        *reinterpret_cast<float2*>(line) = make_float2(low[2 * i], low[2 * i + 1]);
        *reinterpret_cast<float2*>(line + 8) = make_float2(high[2 * i], high[2 * i + 1]);
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kTileScores; ++j) {
        for (int i = 0; i < 2; ++i) {
          const float2 pair = *reinterpret_cast<const float2*>(
              exchange_ + (g_ + 8 * i) * kScoreStride + 8 * j + 2 * t_);
          scores[j][2 * i] = pair.x;
          scores[j][2 * i + 1] = pair.y;
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < kTileScores; j += 2) {
        ScoreSixteen(copier, stage, tile, 8 * j, lane, scores[j], scores[j + 1]);
      }
    }
    uint32_t weights[kTilePositions / 16][4];
    WeighScores(copier, stage, scores, weights);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      AddValues<Number, kDim>(weights, copier.values(stage), FirstChunk() + c, lane, values_[c]);
    }
  }

  // Turns scores into the weights of values, and rescales the sums so far to the largest score so
  // far.
  __device__ __forceinline__ void WeighScores(const Copier& copier, int stage,
                                              float (&scores)[kTileScores][4],
                                              uint32_t (&weights)[kTilePositions / 16][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Query& query = query_[i];
      float most = query.most;
      if (!query.reuses) {
#pragma unroll
        for (int j = 0; j < kTileScores; ++j) {
          most = fmaxf(most, fmaxf(scores[j][2 * i], scores[j][2 * i + 1]));
        }
      }
      // All lanes take part in a shuffle, even lanes whose query reuses a log-sum-exp.
      for (int apart = 1; apart <= 2; apart *= 2) {
        const float other = __shfl_xor_sync(kWholeWarp, most, apart);
        if (!query.reuses) most = fmaxf(most, other);
      }
      const float base = most == -INFINITY ? 0.0f : most;
      const float shrink = query.reuses ? 1.0f : ptx::ExpTwo((query.most - base) * kLog2e);
      query.most = most;
      query.sum *= shrink;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        values_[c][2 * i] *= shrink;
        values_[c][2 * i + 1] *= shrink;
      }
      const float shift = -base * kLog2e;
#pragma unroll
      for (int j = 0; j < kTileScores; ++j) {
        float first = ptx::ExpTwo(fmaf(scores[j][2 * i], kLog2e, shift));
        float second = ptx::ExpTwo(fmaf(scores[j][2 * i + 1], kLog2e, shift));
        query.sum += first;
        query.sum += second;
        if constexpr (Copier::kScaled) {
          const float2 scales = copier.ValueScales(stage, 8 * j + 2 * t_);
          first *= scales.x;
          second *= scales.y;
        }
        weights[j / 2][j % 2 * 2 + i] = PackPair<Number>(first, second);
      }
    }
  }

  // Merges the span into the totals, or writes its state for MergeSpans.
  __device__ __forceinline__ void EndSpan(int32_t span, int32_t first_span) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Query& query = query_[i];
      float sum = query.sum;
      for (int apart = 1; apart <= 2; apart *= 2) {
        sum += __shfl_xor_sync(kWholeWarp, sum, apart);
      }
      if (launch_.runs > 1) {
        if (query.position >= 0) WriteState(i, span, sum);
        continue;
      }
      const MergeWeights weights = Weigh(query.total_most, query.most);
      query.total_most = weights.most;
      query.total_sum = Merged(query.total_sum, weights.kept, sum, weights.added);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        float2* const total = Total(i, c);
        const float2 before = span == first_span ? make_float2(0, 0) : *total;
        *total = make_float2(Merged(before.x, weights.kept, values_[c][2 * i], weights.added),
                             Merged(before.y, weights.kept, values_[c][2 * i + 1], weights.added));
      }
    }
  }
  __device__ __forceinline__ float2* Total(int i, int c) const {
    return reinterpret_cast<float2*>(totals_ + (FirstLine() + g_ + 8 * i) * kDim +
                                     8 * (FirstChunk() + c) + 2 * t_);
  }

  __device__ __forceinline__ void WriteState(int i, int32_t span, float sum) const {
    const Query& query = query_[i];
    const int32_t spans = SpansOf(sequence_.first_position + sequence_.num_rows);
    const int64_t line =
        sequence_.first_state + (query.row - sequence_.first_row) * int64_t{spans} + span;
    float* const state = args_.states + (line * args_.num_heads + query.head) * StateFloats(kDim);
    if (t_ == 0 && (!kShared || warp_ == 0)) {
      state[0] = query.most;
      state[1] = sum;
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      *reinterpret_cast<float2*>(state + 4 + 8 * (FirstChunk() + c) + 2 * t_) =
          make_float2(values_[c][2 * i], values_[c][2 * i + 1]);
    }
  }

  __device__ __forceinline__ void Finish() const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Query& query = query_[i];
      if (query.position < 0) continue;
      const HeadEntry& head = args_.heads[query.head];
      float* const to = head.output + query.row * head.output_stride;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const float2 total = *Total(i, c);
        const int d = 8 * (FirstChunk() + c) + 2 * t_;
        to[d] = query.reuses ? total.x : total.x / query.total_sum;
        to[d + 1] = query.reuses ? total.y : total.y / query.total_sum;
      }
      if (t_ == 0 && (!kShared || warp_ == 0) && !query.reuses && head.lse != nullptr) {
        head.lse[query.row * head.lse_stride] = query.total_most + logf(query.total_sum);
      }
    }
  }

  const AttentionArgs& args_;
  const TensorLaunch& launch_;
  const SequenceEntry& sequence_;
  const GroupEntry& group_;
  const int lane_;
  const int warp_;
  const int g_;
  const int t_;
  float* const exchange_;  // [16][kScoreStride] scores, if warps share queries
  float* const totals_;    // [kQueries][kDim], each lane its own; none if contexts are cut
  bool keeps_scores_ = false;
  bool finds_scores_ = false;
  Query query_[2];
  uint32_t q_[kDim / 16][4];
  float values_[kChunks][4];
};

template <class Stored, int kDim, bool kShared>
__global__ void __launch_bounds__(kTileThreads, kShared ? kDecodeBlocks : kTileBlocks)
    TensorKernel(const __grid_constant__ AttentionArgs args,
                 const __grid_constant__ TensorLaunch launch) {
  Attender<Stored, kDim, kShared>(args, launch).Run();
}

template <class Stored, int kDim, bool kShared>
void LaunchTensor(Stream& stream, const AttentionArgs& args, const TensorLaunch& launch) {
  using Kernel = Attender<Stored, kDim, kShared>;
  static const bool allowed =
      AllowShared(stream, TensorKernel<Stored, kDim, kShared>, Kernel::kSharedBytes);
  (void)allowed;
  // If contexts are cut no totals are added up. Without totals a third block of decode fits a
  // multiprocessor (heads of 128 in bf16: 70.5 KiB of 227, in place of 78.5).
  const size_t shared_bytes =
      static_cast<size_t>(launch.runs > 1 ? Kernel::kCutBytes : Kernel::kSharedBytes);
  // Tiles are in the x dimension: a prompt may have more than the 65,535 blocks of the others.
  const dim3 grid(static_cast<uint32_t>(args.num_groups * launch.query_tiles),
                  static_cast<uint32_t>(launch.runs), static_cast<uint32_t>(args.num_sequences));
  stream.Launch("Attention", grid, dim3(kTileThreads), shared_bytes,
                TensorKernel<Stored, kDim, kShared>, args, launch);
}

template <class Stored, int kDim>
void LaunchDim(Stream& stream, const AttentionArgs& args, const TensorLaunch& launch) {
  if (launch.shares_queries) {
    LaunchTensor<Stored, kDim, true>(stream, args, launch);
  } else {
    LaunchTensor<Stored, kDim, false>(stream, args, launch);
  }
}

template <class Stored>
void LaunchStored(Stream& stream, const AttentionArgs& args, const TensorLaunch& launch) {
  if (args.head_dim == 32) return LaunchDim<Stored, 32>(stream, args, launch);
  if (args.head_dim == 64) return LaunchDim<Stored, 64>(stream, args, launch);
  LaunchDim<Stored, 128>(stream, args, launch);
}

}  // namespace

// The copies need rows of whole 16 bytes at addresses that are multiples of 16.
bool HasTensorKernel(const AttentionArgs& args) {
  if (args.key_format != args.value_format || args.key_format == PlaneFormat::kF32) return false;
  if (!IsTensorHeadDim(args.head_dim)) return false;
  bool aligned = reinterpret_cast<uintptr_t>(args.arena) % 16 == 0 && args.place_bytes % 16 == 0;
  for (int32_t i = 0; i < args.num_groups; ++i) {
    aligned =
        aligned && args.groups[i].keys.offset % 16 == 0 && args.groups[i].values.offset % 16 == 0;
  }
  return aligned;
}

void AttendOnTensorCores(Stream& stream, const AttentionArgs& args, const TensorLaunch& launch) {
  WithFragments(args.key_format,
                [&]<class Stored>() { LaunchStored<Stored>(stream, args, launch); });
}

}  // namespace strata::kernels::cuda
