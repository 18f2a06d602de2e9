#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/step_inputs.h"

namespace strata::kernels::cuda {

// The reason why attention over such a cache cannot run on the tensor cores, in one line; empty if
// it can.
std::string WhyNoTensorKernel(const PagedArena& cache, int32_t head_dim);

// Runs Backend::Attention: sends sequences and block tables
// once a step, chooses kernels and cuts the work. The cut changes no bit. One thread.
class AttentionRunner {
 public:
  // `kept_bytes`: most bytes of planes that several layers read, to be kept in the second cache.
  AttentionRunner(int multiprocessors, size_t kept_bytes)
      : multiprocessors_(multiprocessors), kept_bytes_(kept_bytes) {}

  // Upper bound on the device memory of states between a launch and its merge.
  static size_t MostStateBytes(const StepLimits& limits);

  void Run(Stream& stream, StepInputs& inputs, const PagedArena& cache,
           std::span<const SequenceRows> sequences, std::span<const PlaneGroup> groups);
  void Probabilities(Stream& stream, StepInputs& inputs, const PagedArena& cache,
                     const SequenceRows& sequence, const PlaneGroup& group,
                     const HeadAttention& head, float* out);
  // Forgets the block tables sent: they may have changed.
  void ForgetTables() { known_generation_ = -1; }

 private:
  // Sequences of one row first, then the others. Kernels for single rows share queries between
  // warps and may use score tables.
  struct Sequences {
    const SequenceEntry* entries = nullptr;  // on the device
    const int32_t* tables = nullptr;
    int64_t num_single = 0;  // padded to GraphRows by empty ones in a step without chunks
    int64_t num_chunks = 0;
    int32_t longest_single = 0;  // context
    int64_t most_rows = 0;       // of a sequence
    int64_t num_states = 0;      // spans of all single rows
    size_t num_positions = 0;    // of all contexts
  };
  void PutSequences(StepInputs& inputs, const PagedArena& cache,
                    std::span<const SequenceRows> sequences);
  bool KeepsSharedPlanes(const PagedArena& cache, std::span<const PlaneGroup> groups) const;
  void Launch(Stream& stream, AttentionArgs& args);
  void LaunchSingleRows(Stream& stream, AttentionArgs args, int32_t most_heads);

  const int multiprocessors_;
  const size_t kept_bytes_;
  std::vector<SequenceRows> known_;  // source of `sent_`, with the two below
  int64_t known_generation_ = -1;
  int32_t known_block_tokens_ = 0;
  Sequences sent_;
  std::vector<SequenceEntry> entries_;
  std::vector<int32_t> tables_;
  DeviceArray<float> states_;
};

}  // namespace strata::kernels::cuda
