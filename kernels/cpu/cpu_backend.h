#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/host_choices.h"
#include "kernels/cpu/thread_pool.h"

namespace strata::kernels {

// The backend that is always there. Every operation is done when it returns; Synchronize() has
// nothing to wait for. The arithmetic and its order of sums: kernels/cpu/README.md.
class CpuBackend final : public Backend {
 public:
  // FAILED_PRECONDITION on a processor without fused multiply-add (x86 before AVX2),
  // INVALID_ARGUMENT for a number of threads outside [0, 256]. `pin_threads`: each thread on a core
  // of its own, as long as there are cores. `why_not_cuda` becomes part of Describe() unless empty.
  static absl::StatusOr<std::unique_ptr<CpuBackend>> Create(int32_t threads, bool pin_threads,
                                                            std::string why_not_cuda = {});

  void BindThread() override { pool_.BindCaller(); }
  std::string Describe() const override;
  BackendCounters counters() const override {
    BackendCounters counters = counters_;
    counters.choice_seconds = choices_.seconds();
    return counters;
  }

  size_t WorkingBytes(const StepLimits& limits) const override;
  // Bytes of working memory taken so far.
  size_t working_bytes() const {
    return tiles_.bytes() + attention_.scratch_bytes() + choices_.bytes();
  }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override;
  void CopyFromHost(std::byte* destination, std::span<const std::byte> source) override;
  void CopyToHost(std::span<std::byte> destination, const std::byte* source) override;
  void Copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  absl::Status Synchronize() override { return absl::OkStatus(); }

  absl::Status CheckWeights(MatrixFormat stored) const override;
  absl::Status CheckCache(PlaneFormat keys, PlaneFormat values) const override;
  absl::StatusOr<std::unique_ptr<Matrix>> Pack(std::span<const HostRows> parts,
                                               MatrixFormat stored) override;
  absl::StatusOr<std::unique_ptr<Matrix>> PackGated(const HostRows& gate, const HostRows& up,
                                                    MatrixFormat stored) override;

  void Embed(const Matrix& table, std::span<const int32_t> ids, Rows out) override;
  void MatMul(const Matrix& w, ConstRows x, const RmsNorm& norm, Rows out, Store store) override;
  void GatedMatMul(const Matrix& gate_up, ConstRows x, const RmsNorm& norm, Rows out) override;
  void GatherRows(ConstRows x, std::span<const int32_t> rows, Rows out) override;
  void PrepareAttention(const PagedArena& cache, const Projections& projections) override;
  void Attention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                 std::span<const PlaneGroup> groups) override;
  void AttentionProbabilities(const PagedArena& cache, const SequenceRows& sequence,
                              const PlaneGroup& group, const HeadAttention& head,
                              float* out) override;
  void ChooseTokens(ConstRows logits, std::span<const TokenChoice> choices) override {
    choices_.Choose(logits, choices, pool_);
  }
  absl::Status TakeChosen(std::span<ChosenToken> chosen) override {
    choices_.Take(chosen);
    return absl::OkStatus();
  }

 private:
  CpuBackend(int threads, std::vector<int> cpus, std::string why_not_cuda)
      : why_not_cuda_(std::move(why_not_cuda)), pool_(threads, std::move(cpus)) {}

  // Calls body(begin, end) for ranges of rows, on several threads if there are enough elements.
  template <class Body>
  void ForRows(int64_t num_rows, int64_t elements_per_row, Body body);

  const std::string why_not_cuda_;
  BackendCounters counters_;
  Scratch tiles_;
  AttentionRunner attention_;
  HostChoices choices_;
  ThreadPool pool_;
};

}  // namespace strata::kernels
