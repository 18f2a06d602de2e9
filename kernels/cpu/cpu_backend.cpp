#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_count.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/planes.h"
#include "kernels/cpu/simd_targets.h"

namespace strata::kernels {
namespace {

constexpr int64_t kSmallElements = 1 << 15;  // of row-wise work not worth a second thread
constexpr int64_t kRangesPerThread = 4;

// The instruction sets that this binary and this processor have in common, without Highway's
// one-lane or emulated baseline.
int64_t UsableTargets() {
  return hwy::SupportedTargets() & HWY_TARGETS & ~(HWY_SCALAR | HWY_EMU128);
}

class CpuBuffer final : public Buffer {
 public:
  explicit CpuBuffer(AlignedMemory memory) : memory_(std::move(memory)) {}
  std::byte* data() const override { return memory_.data(); }
  size_t size() const override { return memory_.size(); }

 private:
  AlignedMemory memory_;
};

const PackedMatrix& Packed(const Matrix& matrix) {
  return static_cast<const PackedMatrix&>(matrix);  // a backend is given its own matrices
}

void CheckArena(const PagedArena& cache) {
  STRATA_CHECK(cache.arena != nullptr && cache.block_tokens > 0, "the cache has memory");
  STRATA_CHECK(cache.head_dim > 0 && cache.head_dim <= kMaxHeadDim, "a head fits a tile's row");
  STRATA_CHECK(cache.key_dtype != DType::kF16 && cache.value_dtype != DType::kF16,
               "planes are f32, bf16 or int8");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuBackend>> CpuBackend::Create(int32_t threads, bool pin_threads) {
  if (threads < 0 || threads > ThreadPool::kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be 0 (every core this process may use) to ",
                     ThreadPool::kMaxThreads, ", not ", threads));
  }
  if (UsableTargets() == 0) {
    return absl::FailedPreconditionError(
        "this processor has no fused multiply-add vectors (AVX2 and FMA on x86), which the CPU "
        "backend needs");
  }
  const int count = threads > 0 ? threads : std::min(UsableCpus(), ThreadPool::kMaxThreads);
  return std::unique_ptr<CpuBackend>(
      new CpuBackend(count, pin_threads ? AllowedCpus() : std::vector<int>()));
}

std::string CpuBackend::Describe() const {
  const int64_t targets = UsableTargets();
  const int threads = pool_.num_threads();
  return absl::StrCat("cpu, ", hwy::TargetName(targets & -targets), ", ", threads,
                      threads == 1 ? " thread" : " threads");
}

absl::StatusOr<std::unique_ptr<Buffer>> CpuBackend::Allocate(size_t bytes) {
  absl::StatusOr<AlignedMemory> memory = AlignedMemory::Allocate(bytes);
  if (!memory.ok()) return memory.status();
  return std::make_unique<CpuBuffer>(*std::move(memory));
}

void CpuBackend::CopyFromHost(std::byte* destination, std::span<const std::byte> source) {
  if (!source.empty()) std::memcpy(destination, source.data(), source.size());
}

void CpuBackend::CopyToHost(std::span<std::byte> destination, const std::byte* source) {
  if (!destination.empty()) std::memcpy(destination.data(), source, destination.size());
}

void CpuBackend::Copy(std::byte* destination, const std::byte* source, size_t bytes) {
  std::memcpy(destination, source, bytes);
}

absl::StatusOr<std::unique_ptr<Matrix>> CpuBackend::Pack(std::span<const HostRows> parts,
                                                         DType stored) {
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed = PackedMatrix::Pack(parts, stored, pool_);
  if (!packed.ok()) return packed.status();
  return *std::move(packed);
}

template <class Body>
void CpuBackend::ForRows(int64_t num_rows, int64_t elements_per_row, Body body) {
  const bool small = num_rows * elements_per_row < kSmallElements;
  const int64_t ranges = small ? 1 : pool_.num_threads() * kRangesPerThread;
  pool_.ParallelFor(num_rows, (num_rows + ranges - 1) / ranges,
                    [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

void CpuBackend::Embed(const Matrix& table, std::span<const int32_t> ids, Rows out) {
  const PackedMatrix& rows = Packed(table);
  STRATA_CHECK(std::ssize(ids) == out.num_rows, "an id for every row");
  STRATA_CHECK(rows.num_inputs() == out.num_cols, "rows are as wide as the table");
  ForRows(out.num_rows, out.num_cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids[static_cast<size_t>(i)];
      STRATA_CHECK(id >= 0 && id < rows.num_outputs(), "ids are rows of the table");
      rows.CopyRow(id, out.data + i * out.stride);
    }
  });
}

void CpuBackend::MatMul(const Matrix& w, ConstRows x, Rows out, Store store) {
  STRATA_CHECK(x.num_cols == w.num_inputs(), "x is as wide as the matrix");
  STRATA_CHECK(out.num_cols == w.num_outputs(), "out is as wide as the matrix is high");
  STRATA_CHECK(x.num_rows == out.num_rows, "a row out for every row in");
  ++counters_.matrix_products;
  PackedMatMul(Packed(w), x, out, store, tiles_, pool_);
}

void CpuBackend::RmsNorm(ConstRows x, const float* weight, float epsilon, Rows out) {
  STRATA_CHECK(x.num_rows == out.num_rows && x.num_cols == out.num_cols, "one shape");
  ForRows(x.num_rows, x.num_cols,
          [&](int64_t begin, int64_t end) { RmsNormRows(x, weight, epsilon, out, begin, end); });
}

void CpuBackend::Rope(Rows x, int32_t head_dim, std::span<const int32_t> positions,
                      const float* table) {
  STRATA_CHECK(head_dim > 0 && head_dim % 2 == 0, "dimensions turn in pairs");
  STRATA_CHECK(x.num_cols % head_dim == 0, "rows are whole heads");
  STRATA_CHECK(std::ssize(positions) == x.num_rows, "a position for every row");
  ForRows(x.num_rows, x.num_cols,
          [&](int64_t begin, int64_t end) { RopeRows(x, head_dim, positions, table, begin, end); });
}

void CpuBackend::MixValues(Rows v, ConstRows first_values, float own, float first) {
  STRATA_CHECK(v.num_rows == first_values.num_rows && v.num_cols == first_values.num_cols,
               "one shape");
  ForRows(v.num_rows, v.num_cols,
          [&](int64_t begin, int64_t end) { MixRows(v, first_values, own, first, begin, end); });
}

void CpuBackend::SwiGlu(ConstRows gate_up, Rows out) {
  STRATA_CHECK(gate_up.num_rows == out.num_rows && gate_up.num_cols == 2 * out.num_cols,
               "gates, then as many ups");
  ForRows(out.num_rows, 4 * out.num_cols,
          [&](int64_t begin, int64_t end) { SwiGluRows(gate_up, out, begin, end); });
}

void CpuBackend::GatherRows(ConstRows x, std::span<const int32_t> rows, Rows out) {
  STRATA_CHECK(std::ssize(rows) == out.num_rows && x.num_cols == out.num_cols, "one width");
  for (int64_t i = 0; i < out.num_rows; ++i) {
    const int32_t row = rows[static_cast<size_t>(i)];
    STRATA_CHECK(row >= 0 && row < x.num_rows, "rows are rows of x");
    std::memmove(out.data + i * out.stride, x.data + row * x.stride,
                 static_cast<size_t>(x.num_cols) * sizeof(float));
  }
}

void CpuBackend::WritePlanes(const PagedArena& cache, std::span<const int64_t> slots,
                             std::span<const PlaneWrite> writes) {
  CheckArena(cache);
  const auto rows = std::ssize(slots);
  // Rows of all writes as one list: item = write * rows + row.
  ForRows(rows * std::ssize(writes), cache.head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end;) {
      const int64_t first = item % rows;
      const int64_t count = std::min(rows - first, end - item);
      WritePlaneRows(cache, slots, writes[static_cast<size_t>(item / rows)], first, first + count);
      item += count;
    }
  });
  for (const PlaneWrite& write : writes) {
    counters_.cache_bytes_written += rows * static_cast<int64_t>(cache.TokenBytes(write.kind));
  }
}

void CpuBackend::Attention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                           std::span<const HeadAttention> heads) {
  CheckArena(cache);
  for (const SequenceRows& sequence : sequences) {
    STRATA_CHECK(
        sequence.score_table == nullptr || (sequence.num_rows <= 1 && cache.scores != nullptr),
        "scores are kept for one row of a sequence, where they have memory");
  }
  attention_.Run(cache, sequences, heads, pool_, &counters_);
}

void CpuBackend::AttentionProbabilities(const PagedArena& cache, const SequenceRows& sequence,
                                        const HeadAttention& head, float* out) {
  CheckArena(cache);
  attention_.Probabilities(cache, sequence, head, out);
}

}  // namespace strata::kernels
