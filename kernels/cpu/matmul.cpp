#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

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
  const float* x = nullptr;
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

int64_t MaxTileRows() { return kTileRows; }

// Adds up to 32 columns of finished sums into `out`, or sets them there.
void StoreSums(const float* sums, size_t columns, Backend::Store store, float* out) {
  for (size_t j = 0; j < columns; j += kLanes) {
    const size_t count = columns - j;
    V sum = hn::LoadU(D(), sums + j);
    if (store == Backend::Store::kAdd) sum = hn::Add(LoadUpTo(out + j, count), sum);
    StoreUpTo(sum, out + j, count);
  }
}

// One block of rows times one panel.
template <class T>
void MultiplyPanel(const MatMulTask& task, int64_t row_block, int64_t panel) {
  const auto depth = static_cast<size_t>(task.w->num_inputs());
  const int64_t first = row_block * MatMulTask::kTilesPerBlock * task.tile_rows;
  const int64_t end = std::min(task.num_rows, first + MatMulTask::kTilesPerBlock * task.tile_rows);
  HWY_ALIGN float sums[MatMulTask::kTilesPerBlock * kTileRows * kPanelColumns];
  for (size_t k = 0; k < depth; k += kTileDepth) {
    const T* weights = task.w->panel<T>(panel) + k * kPanelColumns;
    const T* const pieces[] = {weights, weights + kAskAhead};
    const TileRight<T> right{pieces, kTileDepth, kPanelColumns};
    const Chain chain = k == 0 ? Chain::kStart : Chain::kAddBlock;
    for (int64_t row = first; row < end; row += task.tile_rows) {
      const auto rows = static_cast<size_t>(std::min(task.tile_rows, task.num_rows - row));
      const float* left = task.x + static_cast<size_t>(row) * RoundUp(depth, kTileDepth) + k * rows;
      Tile(rows, left, right, kPanelColumns, 0, std::min(kTileDepth, depth - k), chain,
           sums + static_cast<size_t>(row - first) * kPanelColumns, kPanelColumns);
    }
  }
  const int64_t column = panel * PackedMatrix::kPanel;
  const auto columns =
      static_cast<size_t>(std::min(PackedMatrix::kPanel, task.out.num_cols - column));
  for (int64_t row = first; row < end; ++row) {
    StoreSums(sums + static_cast<size_t>(row - first) * kPanelColumns, columns, task.store,
              task.out.data + row * task.out.stride + column);
  }
}

// Items [begin, end) of row block x panel, panels running fastest.
void MultiplyItems(const MatMulTask& task, int64_t begin, int64_t end) {
  const int64_t panels = task.w->num_panels();
  for (int64_t item = begin; item < end; ++item) {
    if (task.w->stored() == DType::kF32) {
      MultiplyPanel<float>(task, item / panels, item % panels);
    } else {
      MultiplyPanel<uint16_t>(task, item / panels, item % panels);
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

int64_t Grain(int64_t items, const ThreadPool& pool) {
  const int64_t ranges = pool.num_threads() == 1 ? 1 : pool.num_threads() * kRangesPerThread;
  return (items + ranges - 1) / ranges;
}

// Copies tile `tile` of x into its blocks.
void CopyTile(ConstRows x, int64_t tile_rows, int64_t tile, float* to) {
  const int64_t first = tile * tile_rows;
  const int64_t rows = std::min(tile_rows, x.num_rows - first);
  const int64_t padded = (x.num_cols + kDepth - 1) / kDepth * kDepth;
  to += first * padded;
  for (int64_t k = 0; k < x.num_cols; k += kDepth) {
    const auto bytes = static_cast<size_t>(std::min(kDepth, x.num_cols - k)) * sizeof(float);
    for (int64_t r = 0; r < rows; ++r, to += kDepth) {
      std::memcpy(to, x.data + (first + r) * x.stride + k, bytes);
    }
  }
}

}  // namespace

void PackedMatMul(const PackedMatrix& w, ConstRows x, Rows out, Backend::Store store,
                  Scratch& scratch, ThreadPool& pool) {
  if (x.num_rows == 0) return;
  MatMulTask task{.w = &w, .x = x.data, .num_rows = x.num_rows, .out = out, .store = store};
  const int64_t max_rows = HWY_DYNAMIC_DISPATCH(MaxTileRows)();
  const int64_t tiles = (x.num_rows + max_rows - 1) / max_rows;
  task.tile_rows = (x.num_rows + tiles - 1) / tiles;  // tiles of nearly one height
  if (x.num_rows > 1) {                               // one row is in tile order already
    const int64_t padded = (x.num_cols + kDepth - 1) / kDepth * kDepth;
    float* copy = scratch.Floats(static_cast<size_t>(x.num_rows * padded));
    const int64_t small = x.num_rows * x.num_cols < kSmallProduct ? task.num_tiles() : 1;
    pool.ParallelFor(task.num_tiles(), small, [&](int64_t begin, int64_t end, int) {
      for (int64_t tile = begin; tile < end; ++tile) CopyTile(x, task.tile_rows, tile, copy);
    });
    task.x = copy;
  }
  const int64_t items = task.num_row_blocks() * w.num_panels();
  const bool small = x.num_rows * x.num_cols * w.num_outputs() < kSmallProduct;
  pool.ParallelFor(items, small ? items : Grain(items, pool), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(MultiplyItems)(task, begin, end);
  });
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
