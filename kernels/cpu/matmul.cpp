#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/bf16_tile.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/int8_tile.h"
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/tile-inl.h"

#ifndef STRATA_KERNELS_CPU_MATMUL_CPP_
#define STRATA_KERNELS_CPU_MATMUL_CPP_
namespace strata::kernels {

// x cut into tiles of `tile_rows` rows (the last may be shorter), each as consecutive blocks [rows
// of the tile][256] of its inputs: the left sides that Tile() reads. kTilesPerBlock tiles in turn
// meet a panel of weights while its current 256 inputs stay in the first caches.
struct MatMulTask {
  static constexpr int64_t kTilesPerBlock = 16;

  const PackedMatrix* w = nullptr;
  const float* x = nullptr;            // for f32 weights
  const std::byte* rounded = nullptr;  // in place of x for bf16 weights, as bf16.widened says
  BF16Kernel bf16 = {};                // multiplies `rounded`
  QuantisedRows quantised = {};        // in place of x for weights in 8 bits
  Int8Kernel int8 = {};                // multiplies `quantised`
  int64_t num_rows = 0;
  int64_t tile_rows = 0;
  Rows out;
  Backend::Store store = Backend::Store::kSet;

  int64_t num_tiles() const { return (num_rows + tile_rows - 1) / tile_rows; }
  int64_t num_row_blocks() const { return (num_tiles() + kTilesPerBlock - 1) / kTilesPerBlock; }
};

}  // namespace strata::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

constexpr auto kPanelColumns = static_cast<size_t>(PackedMatrix::kPanel);
constexpr size_t kGroupBytes =
    kPanelColumns * sizeof(float);                // inputs that fill a word, of a panel
constexpr size_t kAskAhead = 64 * kPanelColumns;  // elements, of a panel and into the next

size_t MaxTileRows() { return kTileRows; }

// Adds up to 32 columns of finished sums, times `scales` unless null, into `out`, or sets them
// there.
void StoreSums(const float* sums, const float* scales, size_t columns, Backend::Store store,
               float* out) {
  for (size_t j = 0; j < columns; j += kLanes) {
    const size_t count = columns - j;
    V sum = hn::LoadU(D(), sums + j);
    if (scales != nullptr) sum = hn::Mul(sum, hn::LoadU(D(), scales + j));
    if (store == Backend::Store::kAdd) sum = hn::Add(LoadUpTo(out + j, count), sum);
    StoreUpTo(sum, out + j, count);
  }
}

// Sets up to 16 columns of `out` to silu(gate) * up, of the finished sums of 16 gates and 16 ups,
// times `scales` unless null.
void StoreGated(const float* sums, const float* scales, size_t columns, float* out) {
  constexpr size_t kUps = kPanelColumns / 2;
  for (size_t j = 0; j < columns; j += kLanes) {
    V gate = hn::LoadU(D(), sums + j);
    V up = hn::LoadU(D(), sums + kUps + j);
    if (scales != nullptr) {
      gate = hn::Mul(gate, hn::LoadU(D(), scales + j));
      up = hn::Mul(up, hn::LoadU(D(), scales + kUps + j));
    }
    const V silu = hn::Div(gate, hn::Add(hn::Set(D(), 1.0f), Exp(hn::Neg(gate))));
    StoreUpTo(hn::Mul(silu, up), out + j, columns - j);
  }
}

// Prefetches the lines of a tile's outputs: they are far apart, and each write would wait for one.
void AskToWrite(const Rows& out, int64_t begin, int64_t end, int64_t column, size_t columns) {
  for (int64_t row = begin; row < end; ++row) {
    for (size_t j = 0; j < columns; j += kCacheLine / sizeof(float)) {
      __builtin_prefetch(out.data + row * out.stride + column + j, 1);
    }
  }
}

// Stores the finished sums of rows [begin, end) while the prefetched lines are near.
void StoreTile(const MatMulTask& task, int64_t begin, int64_t end, int64_t column, size_t columns,
               const float* scales, const float* sums) {
  for (int64_t row = begin; row < end; ++row, sums += kPanelColumns) {
    float* to = task.out.data + row * task.out.stride + column;
    if (task.w->gated()) {
      StoreGated(sums, scales, columns, to);
    } else {
      StoreSums(sums, scales, columns, task.store, to);
    }
  }
}

// A tile's part of a product: one block of inputs, from k on, of `rows` rows from `row` on. `tile`
// is its number among the tiles that read this piece of the panel. Each tile prefetches its share
// of a later piece: if the first tile prefetched all of it, that tile would wait for memory and the
// others would leave memory idle.
struct TilePart {
  size_t row;
  size_t rows;
  size_t k;
  size_t tile;
  size_t share;  // bytes of a group, 32 outputs of a word

  // Byte of the later piece from which a tile of `groups` groups prefetches.
  size_t ShareBegin(size_t groups) const { return tile * groups * share; }
};

// One block of rows times one panel: multiply_tile(part, sums) adds one block of the inputs.
template <class MultiplyTile>
HWY_INLINE void MultiplyPanel(const MatMulTask& task, int64_t row_block, int64_t panel,
                              MultiplyTile multiply_tile) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const int64_t first = row_block * MatMulTask::kTilesPerBlock * task.tile_rows;
  const int64_t end = std::min(task.num_rows, first + MatMulTask::kTilesPerBlock * task.tile_rows);
  HWY_ALIGN float sums[MatMulTask::kTilesPerBlock * kTileRows * kPanelColumns];
  const int64_t column = panel * task.w->panel_results();
  const auto columns =
      static_cast<size_t>(std::min(task.w->panel_results(), task.out.num_cols - column));
  const float* scales = task.w->scales();
  if (scales != nullptr) scales += panel * PackedMatrix::kPanel;
  const auto tiles = static_cast<size_t>((end - first + task.tile_rows - 1) / task.tile_rows);
  const size_t share = (kGroupBytes + tiles - 1) / tiles;
  for (size_t k = 0; k < depth; k += kTileDepth) {
    const bool last = k + kTileDepth >= depth;
    size_t tile = 0;
    for (int64_t row = first; row < end; row += task.tile_rows) {
      const auto rows = static_cast<size_t>(std::min(task.tile_rows, task.num_rows - row));
      const int64_t row_end = row + static_cast<int64_t>(rows);
      float* const tile_sums = sums + static_cast<size_t>(row - first) * kPanelColumns;
      if (last) AskToWrite(task.out, row, row_end, column, columns);
      multiply_tile(TilePart{static_cast<size_t>(row), rows, k, tile++, share}, tile_sums);
      if (last) StoreTile(task, row, row_end, column, columns, scales, tile_sums);
    }
  }
}

void MultiplyF32Panel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  MultiplyPanel(task, row_block, panel, [&](const TilePart& part, float* sums) {
    const float* weights = task.w->panel<float>(panel) + part.k * kPanelColumns;
    const float* const pieces[] = {weights, weights + kAskAhead};
    const float* left = task.x + part.row * RoundUp(depth, kTileDepth) + part.k * part.rows;
    Tile(part.rows, left, TileRight<float>{pieces, kTileDepth, kPanelColumns}, kPanelColumns, 0,
         std::min(kTileDepth, depth - part.k), part.k == 0 ? Chain::kStart : Chain::kAddBlock, sums,
         kPanelColumns);
  });
}

void MultiplyBF16Panel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const size_t element = task.bf16.widened ? sizeof(float) : sizeof(uint16_t);
  MultiplyPanel(task, row_block, panel, [&](const TilePart& part, float* sums) {
    const uint16_t* weights = task.w->panel<uint16_t>(panel) + part.k * kPanelColumns;
    const size_t groups = (std::min(kBF16Depth, depth - part.k) + kBF16Group - 1) / kBF16Group;
    // A single tile prefetches the memory read soon; several prefetch the piece after this one.
    const size_t ahead = part.share == kGroupBytes ? kAskAhead : kBF16Depth * kPanelColumns;
    task.bf16.multiply(
        part.rows,
        {.x = task.rounded + (part.row * RoundUp(depth, kBF16Depth) + part.k * part.rows) * element,
         .w = weights,
         .later = reinterpret_cast<const std::byte*>(weights + ahead) + part.ShareBegin(groups),
         .later_step = part.share,
         .groups = groups,
         .first = part.k == 0,
         .sums = sums});
  });
}

void MultiplyInt8Panel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const QuantisedRows& x = task.quantised;
  MultiplyPanel(task, row_block, panel, [&](const TilePart& part, float* sums) {
    const size_t scale = part.k / kInt8Depth * static_cast<size_t>(x.num_rows) + part.row;
    const uint8_t* weights = task.w->panel<uint8_t>(panel) + part.k * kPanelColumns;
    const size_t groups = (std::min(kInt8Depth, depth - part.k) + kInt8Group - 1) / kInt8Group;
    const uint8_t* later = weights + kInt8Depth * kPanelColumns;
    task.int8.multiply(
        part.rows, {.x = x.values + (part.row * RoundUp(depth, kInt8Depth) + part.k * part.rows) *
                                        x.value_bytes,
                    .starts = x.starts + scale,
                    .scales = x.scales + scale,
                    .w = weights,
                    .later = reinterpret_cast<const std::byte*>(later) + part.ShareBegin(groups),
                    .later_step = part.share,
                    .groups = groups,
                    .first = part.k == 0,
                    .sums = sums});
  });
}

// Multiplies items [begin, end) of row block x panel, panels running fastest.
void MultiplyItems(const MatMulTask& task, int64_t begin, int64_t end) {
  const int64_t panels = task.w->num_panels();
  for (int64_t item = begin; item < end; ++item) {
    if (task.w->stored() == MatrixFormat::kF32) {
      MultiplyF32Panel(task, item / panels, item % panels);
    } else if (task.w->stored() == MatrixFormat::kI8) {
      MultiplyInt8Panel(task, item / panels, item % panels);
    } else {
      MultiplyBF16Panel(task, item / panels, item % panels);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {
namespace {

HWY_EXPORT(MaxTileRows);
HWY_EXPORT(MultiplyItems);

constexpr int64_t kDepth = 256;
constexpr int64_t kSmallProduct = 1 << 16;   // multiply-adds not worth a second thread
constexpr int64_t kSmallLeftSide = 1 << 13;  // numbers not worth one
constexpr int64_t kRangesPerThread = 4;      // so that the loop waits less for a delayed thread

int64_t PaddedInputs(int64_t num_inputs) { return (num_inputs + kDepth - 1) / kDepth * kDepth; }

int64_t Grain(int64_t items, const ThreadPool& pool) {
  const int64_t ranges = pool.num_threads() == 1 ? 1 : pool.num_threads() * kRangesPerThread;
  return (items + ranges - 1) / ranges;
}

// x, normalised if `norm` has a weight, on its way into the left sides of tiles: row after row, 256
// inputs at a time.
class LeftSide {
 public:
  // Floats that Cut needs in `rows_memory`.
  static size_t Floats(int64_t num_cols, const ThreadPool& pool) {
    return static_cast<size_t>(PaddedInputs(num_cols) * pool.num_threads());
  }
  LeftSide(ConstRows x, const RmsNorm& norm, float* rows_memory)
      : x_(x), norm_(norm), rows_memory_(rows_memory) {}

  // Calls put(inputs, how many, row, k, element of the left side at which they go) for each row and
  // each k = 0, 256, 512 ..., on the threads of `pool`.
  template <class Put>
  void Cut(int64_t tile_rows, ThreadPool& pool, Put put) const {
    const bool small = x_.num_rows * x_.num_cols < kSmallLeftSide;
    const int64_t grain = small ? x_.num_rows : Grain(x_.num_rows, pool);
    pool.ParallelFor(x_.num_rows, grain, [&](int64_t begin, int64_t end, int worker) {
      float* const normed = rows_memory_ + worker * PaddedInputs(x_.num_cols);
      for (int64_t row = begin; row < end; ++row) {
        const float* from = x_.data + row * x_.stride;
        if (norm_.weight != nullptr) {
          NormRow(x_, norm_, row, normed);
          from = normed;
        }
        const int64_t first = row / tile_rows * tile_rows;  // of the row's tile
        const int64_t rows = std::min(tile_rows, x_.num_rows - first);
        const int64_t to = first * PaddedInputs(x_.num_cols) + (row - first) * kDepth;
        for (int64_t k = 0; k < x_.num_cols; k += kDepth) {
          const auto count = static_cast<size_t>(std::min(kDepth, x_.num_cols - k));
          put(from + k, count, row, k, static_cast<size_t>(to + k * rows));
        }
      }
    });
  }

 private:
  const ConstRows x_;
  const RmsNorm norm_;
  float* const rows_memory_;
};

// Tiles of nearly one height, at most `most`.
int64_t TileRows(int64_t num_rows, size_t most) {
  const auto tallest = static_cast<int64_t>(most);
  const int64_t tiles = (num_rows + tallest - 1) / tallest;
  return (num_rows + tiles - 1) / tiles;
}

}  // namespace

// The left side is largest in f32.
size_t ProductScratchFloats(int64_t num_rows, int64_t num_cols, const ThreadPool& pool) {
  return LeftSide::Floats(num_cols, pool) + static_cast<size_t>(num_rows * PaddedInputs(num_cols));
}

void PackedMatMul(const PackedMatrix& w, ConstRows x, const RmsNorm& norm, Rows out,
                  Backend::Store store, Scratch& scratch, ThreadPool& pool) {
  if (x.num_rows == 0) return;
  MatMulTask task{.w = &w, .num_rows = x.num_rows, .out = out, .store = store};
  const Int8Kernel int8 = BestInt8Kernel();
  const size_t left_floats = w.stored() == MatrixFormat::kI8
                                 ? QuantisedRows::Floats(x.num_rows, x.num_cols, int8.widened)
                                 : static_cast<size_t>(x.num_rows * PaddedInputs(x.num_cols));
  float* const rows_memory = scratch.Floats(LeftSide::Floats(x.num_cols, pool) + left_floats);
  float* const left = rows_memory + LeftSide::Floats(x.num_cols, pool);
  const LeftSide inputs(x, norm, rows_memory);
  switch (w.stored()) {
    case MatrixFormat::kI8: {
      task.int8 = int8;
      task.tile_rows = TileRows(x.num_rows, int8.max_rows);
      const QuantisedRows to = QuantisedRows::In(left, x.num_rows, x.num_cols, int8.widened);
      task.quantised = to;
      inputs.Cut(task.tile_rows, pool,
                 [&](const float* from, size_t count, int64_t row, int64_t k, size_t element) {
                   const int64_t place = k / kDepth * x.num_rows + row;
                   to.scales[place] =
                       QuantiseInputs(from, count, int8.widened,
                                      to.values + element * to.value_bytes, to.starts + place);
                 });
      break;
    }
    case MatrixFormat::kBF16: {
      task.bf16 = BestBF16Kernel();
      task.tile_rows = TileRows(x.num_rows, task.bf16.max_rows);
      const bool widened = task.bf16.widened;
      auto* const rounded = reinterpret_cast<std::byte*>(left);
      task.rounded = rounded;
      inputs.Cut(task.tile_rows, pool,
                 [&](const float* from, size_t count, int64_t, int64_t, size_t element) {
                   RoundToBF16(from, count, widened,
                               rounded + element * (widened ? sizeof(float) : sizeof(uint16_t)));
                 });
      break;
    }
    default: {
      task.x = left;
      task.tile_rows = TileRows(x.num_rows, HWY_DYNAMIC_DISPATCH(MaxTileRows)());
      inputs.Cut(task.tile_rows, pool,
                 [&](const float* from, size_t count, int64_t, int64_t, size_t element) {
                   std::memcpy(left + element, from, count * sizeof(float));
                 });
    }
  }
  const int64_t items = task.num_row_blocks() * w.num_panels();
  const bool small = x.num_rows * x.num_cols * w.num_outputs() < kSmallProduct;
  pool.ParallelFor(items, small ? items : Grain(items, pool), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(MultiplyItems)(task, begin, end);
  });
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
