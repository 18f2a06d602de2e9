#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/attention_calls.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_count.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/planes.h"
#include "kernels/cpu/simd_targets.h"
#include "kernels/status_macros.h"

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
  bool host_readable() const override { return true; }

 private:
  AlignedMemory memory_;
};

const PackedMatrix& Packed(const Matrix& matrix) {
  return static_cast<const PackedMatrix&>(matrix);  // a backend is given its own matrices
}

// Whether this backend keeps weights and planes in `format`.
bool Keeps(NumberFormat auto format) {
  return format != decltype(format)::kF16 && format != decltype(format)::kF8;
}
absl::Status CheckKept(const char* what, NumberFormat auto format) {
  if (Keeps(format)) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(what, " in ", std::string(FormatName(format)),
                                               ": the CPU backend has f32, bf16 and int8"));
}

void CheckArena(const PagedArena& cache) {
  STRATA_CHECK(cache.arena != nullptr && cache.block_tokens > 0, "the cache has memory");
  STRATA_CHECK(Keeps(cache.key_format) && Keeps(cache.value_format),
               "planes are f32, bf16 or int8");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuBackend>> CpuBackend::Create(int32_t threads, bool pin_threads,
                                                               std::string why_not_cuda) {
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
  return std::unique_ptr<CpuBackend>(new CpuBackend(
      count, pin_threads ? AllowedCpus() : std::vector<int>(), std::move(why_not_cuda)));
}

std::string CpuBackend::Describe() const {
  const int64_t targets = UsableTargets();
  const int threads = pool_.num_threads();
  return absl::StrCat("cpu, ", hwy::TargetName(targets & -targets), ", ", threads,
                      threads == 1 ? " thread" : " threads",
                      why_not_cuda_.empty() ? "" : absl::StrCat(" (", why_not_cuda_, ")"));
}

size_t CpuBackend::WorkingBytes(const StepLimits& limits) const {
  return ProductScratchFloats(limits.rows, limits.inputs, pool_) * sizeof(float) +
         AttentionRunner::MostScratchBytes(limits, pool_.num_threads()) +
         HostChoices::MostBytes(limits, pool_.num_threads());
}

absl::StatusOr<std::unique_ptr<Buffer>> CpuBackend::Allocate(size_t bytes) {
  ASSIGN_OR_RETURN(AlignedMemory memory, AlignedMemory::Allocate(bytes));
  return std::make_unique<CpuBuffer>(std::move(memory));
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

absl::Status CpuBackend::CheckWeights(MatrixFormat stored) const {
  return CheckKept("weights", stored);
}

absl::Status CpuBackend::CheckCache(PlaneFormat keys, PlaneFormat values) const {
  RETURN_IF_ERROR(CheckKept("keys", keys));
  return CheckKept("values", values);
}

absl::StatusOr<std::unique_ptr<Matrix>> CpuBackend::Pack(std::span<const HostRows> parts,
                                                         MatrixFormat stored) {
  ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> packed,
                   PackedMatrix::Pack(parts, PackedMatrix::Order::kStacked, stored, pool_));
  return packed;
}

absl::StatusOr<std::unique_ptr<Matrix>> CpuBackend::PackGated(const HostRows& gate,
                                                              const HostRows& up,
                                                              MatrixFormat stored) {
  STRATA_CHECK(gate.num_rows == up.num_rows, "a gate for every up");
  const HostRows parts[] = {gate, up};
  ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> packed,
                   PackedMatrix::Pack(parts, PackedMatrix::Order::kGated, stored, pool_));
  return packed;
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
      int32_t id = ids[static_cast<size_t>(i)];
      if (id < 0) id = choices_.token(~id);
      STRATA_CHECK(id >= 0 && id < rows.num_outputs(), "ids are rows of the table");
      rows.CopyRow(id, out.data + i * out.stride);
    }
  });
}

void CpuBackend::MatMul(const Matrix& w, ConstRows x, const RmsNorm& norm, Rows out, Store store) {
  STRATA_CHECK(x.num_cols == w.num_inputs(), "x is as wide as the matrix");
  STRATA_CHECK(out.num_cols == w.num_outputs(), "out is as wide as the matrix is high");
  STRATA_CHECK(x.num_rows == out.num_rows, "a row out for every row in");
  STRATA_CHECK(!Packed(w).gated(), "gated matrices are for GatedMatMul");
  ++counters_.matrix_products;
  PackedMatMul(Packed(w), x, norm, out, store, tiles_, pool_);
}

void CpuBackend::GatedMatMul(const Matrix& gate_up, ConstRows x, const RmsNorm& norm, Rows out) {
  STRATA_CHECK(x.num_cols == gate_up.num_inputs(), "x is as wide as the matrix");
  STRATA_CHECK(2 * out.num_cols == gate_up.num_outputs(), "an output for a gate and an up");
  STRATA_CHECK(x.num_rows == out.num_rows, "a row out for every row in");
  STRATA_CHECK(Packed(gate_up).gated(), "gates stand beside their ups");
  ++counters_.matrix_products;
  PackedMatMul(Packed(gate_up), x, norm, out, Store::kSet, tiles_, pool_);
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

void CpuBackend::PrepareAttention(const PagedArena& cache, const Projections& projections) {
  const int64_t num_rows = projections.num_rows;
  CheckProjections(cache, projections);
  int64_t elements = 0;
  for (const HeadWay& way : projections.ways) {
    elements += way.head_dim;
    if (way.is_written) CheckArena(cache);
  }
  ForRows(num_rows, elements, [&](int64_t begin, int64_t end) {
    for (const HeadWay& way : projections.ways) {
      RunWay(way, projections.positions, begin, end);
      if (way.is_written) {
        WritePlaneRows(cache, projections.SlotsOf(way.plane), way, begin, end);
      }
    }
  });
  CountWrites(cache, projections, &counters_);
}

void CpuBackend::Attention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                           std::span<const PlaneGroup> groups) {
  CheckArena(cache);
  CheckAttention(cache, sequences, groups);
  attention_.Run(cache, sequences, groups, pool_);
  CountReads(cache, sequences, groups, &counters_);
}

void CpuBackend::AttentionProbabilities(const PagedArena& cache, const SequenceRows& sequence,
                                        const PlaneGroup& group, const HeadAttention& head,
                                        float* out) {
  CheckArena(cache);
  attention_.Probabilities(cache, sequence, group, head, out);
}

}  // namespace strata::kernels
