#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/host_choices.h"
#include "kernels/cpu/thread_pool.h"

namespace strata::testing {

// Zeroed when first touched.
class UntouchedBuffer final : public kernels::Buffer {
 public:
  explicit UntouchedBuffer(size_t bytes)
      : data_(static_cast<std::byte*>(std::calloc(bytes + 1, 1))), bytes_(bytes) {}
  ~UntouchedBuffer() override { std::free(data_); }
  std::byte* data() const override { return data_; }
  size_t size() const override { return bytes_; }

 private:
  std::byte* const data_;
  const size_t bytes_;
};

class ShapeOnly final : public kernels::Matrix {
 public:
  ShapeOnly(int64_t outputs, int64_t inputs) : outputs_(outputs), inputs_(inputs) {}
  int64_t num_outputs() const override { return outputs_; }
  int64_t num_inputs() const override { return inputs_; }
  size_t bytes() const override { return 0; }

 private:
  const int64_t outputs_, inputs_;
};

// A backend whose operations do nothing; memory, shapes of matrices and choices are real. A base
// class.
class NullBackend : public kernels::Backend {
 public:
  std::string Describe() const override { return "null"; }
  kernels::BackendCounters counters() const override {
    return {.choice_seconds = choices_.seconds()};
  }
  absl::StatusOr<std::unique_ptr<kernels::Buffer>> Allocate(size_t bytes) override {
    return std::make_unique<UntouchedBuffer>(bytes);
  }
  void CopyFromHost(std::byte* to, std::span<const std::byte> from) override {
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
  }
  void CopyToHost(std::span<std::byte> to, const std::byte* from) override {
    if (!to.empty()) std::memcpy(to.data(), from, to.size());
  }
  void Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<kernels::Matrix>> Pack(std::span<const kernels::HostRows> parts,
                                                        kernels::MatrixFormat) override {
    int64_t rows = 0;
    for (const kernels::HostRows& part : parts) rows += part.num_rows;
    return std::make_unique<ShapeOnly>(rows, parts[0].num_cols);
  }
  absl::StatusOr<std::unique_ptr<kernels::Matrix>> PackGated(const kernels::HostRows& gate,
                                                             const kernels::HostRows& up,
                                                             kernels::MatrixFormat) override {
    return std::make_unique<ShapeOnly>(gate.num_rows + up.num_rows, gate.num_cols);
  }
  void Embed(const kernels::Matrix&, std::span<const int32_t>, kernels::Rows) override {}
  void MatMul(const kernels::Matrix&, kernels::ConstRows, const kernels::RmsNorm&, kernels::Rows,
              Store) override {}
  void GatedMatMul(const kernels::Matrix&, kernels::ConstRows, const kernels::RmsNorm&,
                   kernels::Rows) override {}
  void GatherRows(kernels::ConstRows, std::span<const int32_t>, kernels::Rows) override {}
  void PrepareAttention(const kernels::PagedArena&, const kernels::Projections&) override {}
  void Attention(const kernels::PagedArena&, std::span<const kernels::SequenceRows>,
                 std::span<const kernels::PlaneGroup>) override {}
  void AttentionProbabilities(const kernels::PagedArena&, const kernels::SequenceRows&,
                              const kernels::PlaneGroup&, const kernels::HeadAttention&,
                              float*) override {}
  void ChooseTokens(kernels::ConstRows logits,
                    std::span<const kernels::TokenChoice> choices) override {
    choices_.Choose(logits, choices, caller_);
  }
  absl::Status TakeChosen(std::span<kernels::ChosenToken> chosen) override {
    choices_.Take(chosen);
    return Synchronize();
  }

 protected:
  // The token of choices[i] of the last ChooseTokens().
  int32_t LastToken(int32_t i) const { return choices_.token(i); }

 private:
  kernels::ThreadPool caller_{1};
  kernels::HostChoices choices_;
};

}  // namespace strata::testing
