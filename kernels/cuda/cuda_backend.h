#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/attention_runner.h"
#include "kernels/cuda/cublas_products.h"
#include "kernels/cuda/cuda_matrix.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/product_kernels.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/step_clock.h"
#include "kernels/cuda/step_inputs.h"

namespace strata::kernels::cuda {

// The backend of one CUDA device. Operations are put into a stream and run in order. The host waits
// for results only in CopyToHost(), TakeChosen() and Synchronize(). It also waits until a half of
// pinned memory has been read (BeginStep(), staging), and when memory grows or is freed. Working
// memory grows to the need of the largest call.
// The first error of the device stays: nothing runs after it, and every Synchronize() returns it.
class CudaBackend final : public Backend {
 public:
  // FAILED_PRECONDITION if there is no usable device.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(const BackendOptions& options);
  ~CudaBackend() override;

  void BindThread() override;
  std::string Describe() const override;
  BackendCounters counters() const override { return counters_; }
  std::vector<std::string> TakeNotes() override { return std::exchange(notes_, {}); }
  std::string WhyAttentionIsSlow(const PagedArena& cache, int32_t head_dim) const override {
    return WhyNoTensorKernel(cache, head_dim);
  }

  std::optional<DeviceMemory> device_memory() override;
  int32_t StepTokens() const override { return 8192; }
  size_t WorkingBytes(const StepLimits& limits) const override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override;
  void CopyFromHost(std::byte* destination, std::span<const std::byte> source) override;
  void CopyToHost(std::span<std::byte> destination, const std::byte* source) override;
  void Copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void BeginStep(bool repeats) override;
  int64_t PaddedRows(int64_t decodes) const override { return GraphRows(decodes); }
  absl::Status Synchronize() override;

  absl::Status CheckWeights(MatrixFormat stored) const override;
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

  bool asynchronous() const override { return true; }
  void ChooseTokens(ConstRows logits, std::span<const TokenChoice> choices) override;
  absl::Status TakeChosen(std::span<ChosenToken> chosen) override;

 private:
  CudaBackend(DeviceInfo info, const BackendOptions& options)
      : info_(std::move(info)),
        batch_invariant_(options.batch_invariant),
        attention_(info_.multiprocessors, options.keep_shared_planes ? info_.kept_bytes : 0) {}
  void Multiply(const CudaMatrix& w, ConstRows x, const RmsNorm& norm, Rows out, bool add);
  // Returns false if cuBLASLt has no plan for the product.
  bool MultiplyByCublas(const Product& product);
  void NoteMissingPlan(const Product& product);

  const DeviceInfo info_;
  const bool batch_invariant_;
  // The stream goes last: freed memory may be in use until the stream has ended.
  Stream stream_;
  Staging staging_;
  StepInputs inputs_;
  CublasProducts cublas_;
  StepClock clock_;
  AttentionRunner attention_;
  TokenSampler sampler_;
  BackendCounters counters_;
  DeviceArray<std::byte> product_inputs_;  // of a product, as the matrix is stored
  DeviceArray<float> input_scales_;        // of their rows, in 8 bits
  DeviceArray<float> sums_;                // cuBLASLt's sums for FinishSums
  std::set<std::tuple<MatrixFormat, int64_t, int64_t>>
      noted_;                       // matrices whose missing plans are in a note
  std::vector<std::string> notes_;  // not taken yet
};

}  // namespace strata::kernels::cuda
