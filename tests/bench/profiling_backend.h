#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace strata::testing {

// Time, operations and bytes of one kind of operation; seconds alone if it is known to be bound
// neither by arithmetic nor by memory.
struct Work {
  double seconds = 0;
  double operations = 0;  // in floating point
  double bytes = 0;       // of weights or of the cache

  Work& operator+=(const Work& more) {
    seconds += more.seconds;
    operations += more.operations;
    bytes += more.bytes;
    return *this;
  }
};

// Another backend, with the work of each kind of operation. While `asleep` no computation runs: the
// contents of memory count as its result. With `waits` it waits before and after each operation, so
// that each has a time of its own even if operations run asynchronously.
class ProfilingBackend : public kernels::Backend {
 public:
  explicit ProfilingBackend(std::unique_ptr<kernels::Backend> inner, bool waits = false)
      : inner_(std::move(inner)), waits_(waits) {}

  // Returns the work since the last call.
  std::map<std::string, Work> TakeWork() { return std::exchange(work_, {}); }
  void set_asleep(bool asleep) { asleep_ = asleep; }

  std::string Describe() const override { return inner_->Describe(); }
  kernels::BackendCounters counters() const override { return inner_->counters(); }
  absl::StatusOr<std::unique_ptr<kernels::Buffer>> Allocate(size_t bytes) override {
    return inner_->Allocate(bytes);
  }
  void CopyFromHost(std::byte* to, std::span<const std::byte> from) override {
    inner_->CopyFromHost(to, from);
  }
  void CopyToHost(std::span<std::byte> to, const std::byte* from) override {
    Timed("copy", [&] { inner_->CopyToHost(to, from); });
  }
  void Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    inner_->Copy(to, from, bytes);
  }
  void BeginStep(bool repeats) override {
    if (!waits_) inner_->BeginStep(repeats);
  }
  int64_t PaddedRows(int64_t decodes) const override { return inner_->PaddedRows(decodes); }
  absl::Status Synchronize() override { return inner_->Synchronize(); }
  std::optional<kernels::DeviceMemory> device_memory() override { return inner_->device_memory(); }
  int32_t StepTokens() const override { return inner_->StepTokens(); }
  size_t WorkingBytes(const kernels::StepLimits& limits) const override {
    return inner_->WorkingBytes(limits);
  }
  bool asynchronous() const override { return inner_->asynchronous(); }
  void ChooseTokens(kernels::ConstRows logits,
                    std::span<const kernels::TokenChoice> choices) override {
    Timed("sampling", [&] { inner_->ChooseTokens(logits, choices); });
    chosen_asleep_.push_back(asleep_);
  }
  absl::Status TakeChosen(std::span<kernels::ChosenToken> chosen) override {
    const bool asleep = chosen_asleep_.front();
    chosen_asleep_.pop_front();
    if (!asleep) return inner_->TakeChosen(chosen);
    std::fill(chosen.begin(), chosen.end(), kernels::ChosenToken());
    return inner_->Synchronize();
  }
  absl::Status CheckWeights(kernels::MatrixFormat stored) const override {
    return inner_->CheckWeights(stored);
  }
  absl::Status CheckCache(kernels::PlaneFormat keys, kernels::PlaneFormat values) const override {
    return inner_->CheckCache(keys, values);
  }
  absl::StatusOr<std::unique_ptr<kernels::Matrix>> Pack(std::span<const kernels::HostRows> parts,
                                                        kernels::MatrixFormat stored) override {
    return inner_->Pack(parts, stored);
  }
  absl::StatusOr<std::unique_ptr<kernels::Matrix>> PackGated(
      const kernels::HostRows& gate, const kernels::HostRows& up,
      kernels::MatrixFormat stored) override {
    return inner_->PackGated(gate, up, stored);
  }
  void Embed(const kernels::Matrix& table, std::span<const int32_t> ids,
             kernels::Rows out) override {
    Timed("embed", [&] { inner_->Embed(table, ids, out); });
  }
  void MatMul(const kernels::Matrix& w, kernels::ConstRows x, const kernels::RmsNorm& norm,
              kernels::Rows out, Store store) override {
    Timed(
        "products", [&] { inner_->MatMul(w, x, norm, out, store); }, Product(w, x));
  }
  void GatedMatMul(const kernels::Matrix& gate_up, kernels::ConstRows x,
                   const kernels::RmsNorm& norm, kernels::Rows out) override {
    Timed(
        "products", [&] { inner_->GatedMatMul(gate_up, x, norm, out); }, Product(gate_up, x));
  }
  void GatherRows(kernels::ConstRows x, std::span<const int32_t> rows, kernels::Rows out) override {
    Timed("gather", [&] { inner_->GatherRows(x, rows, out); });
  }
  void PrepareAttention(const kernels::PagedArena& cache,
                        const kernels::Projections& projections) override {
    Timed("rope, cache write", [&] { inner_->PrepareAttention(cache, projections); });
  }
  void Attention(const kernels::PagedArena& cache, std::span<const kernels::SequenceRows> sequences,
                 std::span<const kernels::PlaneGroup> groups) override {
    const double before = CacheBytes();
    double pairs = 0;
    for (const kernels::SequenceRows& sequence : sequences) {
      const auto rows = static_cast<double>(sequence.num_rows);
      pairs += rows * (static_cast<double>(sequence.first_position) + (rows + 1) / 2);
    }
    double per_pair = 0;
    for (const kernels::PlaneGroup& group : groups) {
      per_pair += 4.0 * group.head_dim * static_cast<double>(group.heads.size());
    }
    Timed("attention", [&] { inner_->Attention(cache, sequences, groups); },
          {.operations = pairs * per_pair});
    work_["attention"].bytes += CacheBytes() - before;
  }
  void AttentionProbabilities(const kernels::PagedArena& cache,
                              const kernels::SequenceRows& sequence,
                              const kernels::PlaneGroup& group, const kernels::HeadAttention& head,
                              float* out) override {
    Timed("probabilities",
          [&] { inner_->AttentionProbabilities(cache, sequence, group, head, out); });
  }

 private:
  template <class Operation>
  void Timed(const char* kind, Operation operation, Work work = {}) {
    if (asleep_) return;
    if (waits_) inner_->Synchronize().IgnoreError();  // the step's own call returns the error
    const auto begin = std::chrono::steady_clock::now();
    operation();
    if (waits_) inner_->Synchronize().IgnoreError();
    work.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    work_[kind] += work;
  }

  static Work Product(const kernels::Matrix& w, kernels::ConstRows x) {
    return {.operations = 2.0 * static_cast<double>(x.num_rows) *
                          static_cast<double>(w.num_inputs()) *
                          static_cast<double>(w.num_outputs()),
            .bytes = static_cast<double>(w.bytes())};
  }

  double CacheBytes() const {
    const kernels::BackendCounters counters = inner_->counters();
    return static_cast<double>(counters.cache_bytes_read + counters.score_bytes_read +
                               counters.score_bytes_written);
  }

  const std::unique_ptr<kernels::Backend> inner_;
  const bool waits_;
  std::map<std::string, Work> work_;
  bool asleep_ = false;
  std::deque<bool> chosen_asleep_;  // of choices that were not taken
};

}  // namespace strata::testing
