#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/bf16_tile.h"
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

// x cut into tiles of `tile_rows` rows (the last may be shorter), each as consecutive blocks
// [rows of the tile][256] of its inputs: the left sides that Tile() reads. `tiles_per_block` of
// them together meet a panel of weights while its current 256 inputs stay in the first caches.
struct MatMulTask {
  static constexpr int64_t kTilesPerBlock = 16;

  const PackedMatrix* w = nullptr;
  const float* x = nullptr;            // for f32 weights
  const std::byte* rounded = nullptr;  // in place of x for bf16 weights, as bf16.widened says
  BF16Kernel bf16 = {};                // what multiplies those
  QuantisedRows quantised = {};        // in place of x for weights in 8 bits
  Int8Kernel int8 = {};                // what multiplies those
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

// Brings the lines of a tile's outputs nearer. They stand far apart, and writing waits for each.
void AskToWrite(const Rows& out, int64_t begin, int64_t end, int64_t column) {
  for (int64_t row = begin; row < end; ++row) {
    for (size_t j = 0; j < kPanelColumns; j += kCacheLine / sizeof(float)) {
      __builtin_prefetch(out.data + row * out.stride + column + j, 1);
    }
  }
}

// One block of rows times one panel: multiply_tile(row, rows, k, sums) adds block k of the inputs
// of a tile that starts at `row`.
template <class MultiplyTile>
HWY_INLINE void MultiplyPanel(const MatMulTask& task, int64_t row_block, int64_t panel,
                              MultiplyTile multiply_tile) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const int64_t first = row_block * MatMulTask::kTilesPerBlock * task.tile_rows;
  const int64_t end = std::min(task.num_rows, first + MatMulTask::kTilesPerBlock * task.tile_rows);
  HWY_ALIGN float sums[MatMulTask::kTilesPerBlock * kTileRows * kPanelColumns];
  const int64_t column = panel * PackedMatrix::kPanel;
  for (size_t k = 0; k < depth; k += kTileDepth) {
    for (int64_t row = first; row < end; row += task.tile_rows) {
      const auto rows = static_cast<size_t>(std::min(task.tile_rows, task.num_rows - row));
      if (k + kTileDepth >= depth)
        AskToWrite(task.out, row, row + static_cast<int64_t>(rows), column);
      multiply_tile(static_cast<size_t>(row), rows, k,
                    sums + static_cast<size_t>(row - first) * kPanelColumns);
    }
  }
  const auto columns =
      static_cast<size_t>(std::min(PackedMatrix::kPanel, task.out.num_cols - column));
  const float* scales = task.w->scales();
  if (scales != nullptr) scales += column;
  for (int64_t row = first; row < end; ++row) {
    StoreSums(sums + static_cast<size_t>(row - first) * kPanelColumns, scales, columns, task.store,
              task.out.data + row * task.out.stride + column);
  }
}

void MultiplyF32Panel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  MultiplyPanel(task, row_block, panel, [&](size_t row, size_t rows, size_t k, float* sums) {
    const float* weights = task.w->panel<float>(panel) + k * kPanelColumns;
    const float* const pieces[] = {weights, weights + kAskAhead};
    const float* left = task.x + row * RoundUp(depth, kTileDepth) + k * rows;
    Tile(rows, left, TileRight<float>{pieces, kTileDepth, kPanelColumns}, kPanelColumns, 0,
         std::min(kTileDepth, depth - k), k == 0 ? Chain::kStart : Chain::kAddBlock, sums,
         kPanelColumns);
  });
}

void MultiplyBF16Panel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const size_t element = task.bf16.widened ? sizeof(float) : sizeof(uint16_t);
  const auto first_row =
      static_cast<size_t>(row_block * MatMulTask::kTilesPerBlock * task.tile_rows);
  MultiplyPanel(task, row_block, panel, [&](size_t row, size_t rows, size_t k, float* sums) {
    const uint16_t* weights = task.w->panel<uint16_t>(panel) + k * kPanelColumns;
    const size_t inputs = std::min(kBF16Depth, depth - k);
    task.bf16.multiply(rows,
                       {.x = task.rounded + (row * RoundUp(depth, kBF16Depth) + k * rows) * element,
                        .w = weights,
                        // The block's first tile brings the weights in, for the others as well.
                        .later = row == first_row ? weights + kAskAhead : weights,
                        .groups = (inputs + kBF16Group - 1) / kBF16Group,
                        .first = k == 0,
                        .sums = sums});
  });
}

void MultiplyInt8Panel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const QuantisedRows& x = task.quantised;
  MultiplyPanel(task, row_block, panel, [&](size_t row, size_t rows, size_t k, float* sums) {
    const size_t scale = k / kInt8Depth * static_cast<size_t>(x.num_rows) + row;
    const size_t inputs = std::min(kInt8Depth, depth - k);
    task.int8.multiply(rows, {.x = x.values + row * RoundUp(depth, kInt8Depth) + k * rows,
                              .starts = x.starts + scale,
                              .scales = x.scales + scale,
                              .w = task.w->panel<uint8_t>(panel) + k * kPanelColumns,
                              .groups = (inputs + kInt8Group - 1) / kInt8Group,
                              .first = k == 0,
                              .sums = sums});
  });
}

// Items [begin, end) of row block x panel, panels running fastest.
void MultiplyItems(const MatMulTask& task, int64_t begin, int64_t end) {
  const int64_t panels = task.w->num_panels();
  for (int64_t item = begin; item < end; ++item) {
    if (task.w->stored() == DType::kF32) {
      MultiplyF32Panel(task, item / panels, item % panels);
    } else if (task.w->stored() == DType::kI8) {
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
constexpr int64_t kSmallProduct = 1 << 16;  // multiply-adds not worth a second thread
constexpr int64_t kRangesPerThread = 4;     // so that a thread which is held up is waited for less

int64_t PaddedInputs(int64_t num_inputs) { return (num_inputs + kDepth - 1) / kDepth * kDepth; }

int64_t Grain(int64_t items, const ThreadPool& pool) {
  const int64_t ranges = pool.num_threads() == 1 ? 1 : pool.num_threads() * kRangesPerThread;
  return (items + ranges - 1) / ranges;
}

// Puts tile `tile` of x into its blocks: put(row's inputs of a block, how many, element of the left
// side at which they go).
template <class Put>
void CutTile(ConstRows x, int64_t tile_rows, int64_t tile, Put put) {
  const int64_t first = tile * tile_rows;
  const int64_t rows = std::min(tile_rows, x.num_rows - first);
  int64_t to = first * PaddedInputs(x.num_cols);
  for (int64_t k = 0; k < x.num_cols; k += kDepth) {
    const auto count = static_cast<size_t>(std::min(kDepth, x.num_cols - k));
    for (int64_t r = 0; r < rows; ++r, to += kDepth) {
      put(x.data + (first + r) * x.stride + k, count, static_cast<size_t>(to));
    }
  }
}

}  // namespace

void PackedMatMul(const PackedMatrix& w, ConstRows x, Rows out, Backend::Store store,
                  Scratch& scratch, ThreadPool& pool) {
  if (x.num_rows == 0) return;
  MatMulTask task{.w = &w, .x = x.data, .num_rows = x.num_rows, .out = out, .store = store};
  const auto cut = [&](size_t max_rows, auto tile_body) {
    const auto most = static_cast<int64_t>(max_rows);
    const int64_t tiles = (x.num_rows + most - 1) / most;
    task.tile_rows = (x.num_rows + tiles - 1) / tiles;  // tiles of nearly one height
    const int64_t grain = x.num_rows * x.num_cols < kSmallProduct ? task.num_tiles() : 1;
    pool.ParallelFor(task.num_tiles(), grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t tile = begin; tile < end; ++tile) tile_body(tile);
    });
  };
  const auto left_floats = static_cast<size_t>(x.num_rows * PaddedInputs(x.num_cols));
  switch (w.stored()) {
    case DType::kI8: {
      task.int8 = BestInt8Kernel();
      float* memory = scratch.Floats(QuantisedRows::Floats(x.num_rows, x.num_cols));
      task.quantised = QuantisedRows::In(memory, x.num_rows, x.num_cols);
      cut(task.int8.max_rows,
          [&](int64_t tile) { QuantiseTile(x, task.tile_rows, tile, task.quantised); });
      break;
    }
    case DType::kBF16: {
      task.bf16 = BestBF16Kernel();
      auto* const left = reinterpret_cast<std::byte*>(scratch.Floats(left_floats));
      task.rounded = left;
      const bool widened = task.bf16.widened;
      cut(task.bf16.max_rows, [&](int64_t tile) {
        CutTile(x, task.tile_rows, tile, [&](const float* from, size_t count, size_t to) {
          RoundToBF16(from, count, widened,
                      left + to * (widened ? sizeof(float) : sizeof(uint16_t)));
        });
      });
      break;
    }
    default: {
      float* const left = scratch.Floats(left_floats);
      task.x = left;
      cut(HWY_DYNAMIC_DISPATCH(MaxTileRows)(), [&](int64_t tile) {
        CutTile(x, task.tile_rows, tile, [&](const float* from, size_t count, size_t to) {
          std::memcpy(left + to, from, count * sizeof(float));
        });
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
