#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention_types.h"
#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace strata::kernels {

// A piece of backend memory, 64-byte aligned and zeroed when made. Freed with the object.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() const = 0;
  virtual size_t size() const = 0;
  // Whether the host may read data() once the backend has been synchronized.
  virtual bool host_readable() const { return false; }

  float* floats() const { return reinterpret_cast<float*>(data()); }
};

// A weight matrix [num_outputs, num_inputs] in the order its backend likes best. Immutable.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int64_t num_outputs() const = 0;
  virtual int64_t num_inputs() const = 0;
  virtual size_t bytes() const = 0;  // bytes one product reads
};

// Work of a backend since its creation; tests and benchmarks take differences.
struct BackendCounters {
  int64_t matrix_products = 0;
  int64_t cache_bytes_written = 0;
  int64_t cache_bytes_read = 0;  // by attention: every plane row a query's span reads, once a group
  int64_t score_bytes_written = 0;
  int64_t score_bytes_read = 0;
  // Device time of the steps whose tokens were taken, each from its first operation to its last, by
  // the device's own clock. 0 unless BackendOptions::times_steps is set.
  double step_seconds = 0;
  double choice_seconds = 0;  // CPU: in ChooseTokens()
};

// Bytes of a device that has memory of its own.
struct DeviceMemory {
  size_t total = 0;
  size_t available = 0;
};

// Upper bounds on the size of any step.
struct StepLimits {
  int64_t rows = 0;
  int64_t logit_rows = 0;  // rows with logits
  int64_t sequences = 0;
  int64_t context = 0;        // of a sequence
  int64_t table_entries = 0;  // of a sequence's block table
  int64_t inputs = 0;         // of a matrix
  int64_t outputs = 0;        // of a matrix other than the vocabulary's
  int64_t vocab_size = 0;
  int64_t heads = 0;  // of a layer's queries
  int32_t head_dim = 0;
};

// Memory and the coarse operations of a decoder's forward pass. One implementation per kind of
// device; everything above this line is device-blind.
//
// Determinism: every operation computes a row from that row's inputs alone, in one fixed order of
// sums. Other rows in the call, the cut of rows into calls and the number of threads do not matter.
// On CUDA this holds for products only if BackendOptions::batch_invariant is set.
//
// Threads: one thread at a time (the engine's). Operations may run asynchronously in order;
// Synchronize(), CopyToHost() and TakeChosen() wait. Sizes are checked by STRATA_CHECK: a mismatch
// is our bug.
class Backend {
 public:
  virtual ~Backend() = default;

  // One line for the operator about each slow path taken since the last call, with the reason;
  // empty if nothing is new.
  virtual std::vector<std::string> TakeNotes() { return {}; }
  // The reason why attention over such a cache takes a slow path, in one line; empty if it does
  // not.
  virtual std::string WhyAttentionIsSlow(const PagedArena&, int32_t /*head_dim*/) const {
    return {};
  }

  // Called by the thread that makes all later calls. The CPU backend pins it if `pin_threads` is
  // set.
  virtual void BindThread() {}

  // For people: "cpu, AVX3, 2 threads".
  virtual std::string Describe() const = 0;
  virtual BackendCounters counters() const = 0;

  // nullopt if the backend computes in the host's memory.
  virtual std::optional<DeviceMemory> device_memory() { return std::nullopt; }
  // Tokens in a step that keep the device busy: the room of a step unless an option sets it.
  virtual int32_t StepTokens() const { return 512; }
  // Upper bound on the bytes of the backend's own working memory in steps within these limits. This
  // memory grows to the need of the largest step so far.
  virtual size_t WorkingBytes(const StepLimits&) const { return 0; }

  // RESOURCE_EXHAUSTED with the number of bytes when memory is short.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  virtual void CopyFromHost(std::byte* destination, std::span<const std::byte> source) = 0;
  virtual void CopyToHost(std::span<std::byte> destination, const std::byte* source) = 0;
  // Copies within the backend's memory. REQUIRES: the two ranges do not overlap.
  virtual void Copy(std::byte* destination, const std::byte* source, size_t bytes) = 0;
  // Begins a step: operations up to the next ChooseTokens(), CopyToHost() or Synchronize() may be
  // held back and run as a whole. `repeats`: the same operations on the same memory are likely to
  // come again, as in decode steps.
  virtual void BeginStep(bool /*repeats*/) {}
  // Rows that a step of `decodes` decodes should have, so that a few sizes of steps repeat. Added
  // rows belong to no sequence; their slots are kNoSlot.
  virtual int64_t PaddedRows(int64_t decodes) const { return decodes; }
  // Waits for all work. An error ends the device: nothing runs after it, and every later call
  // returns the error again.
  virtual absl::Status Synchronize() = 0;

  // OK, or UNIMPLEMENTED in one line if the backend keeps no matrices, or no planes, in that
  // format.
  virtual absl::Status CheckWeights(MatrixFormat) const { return absl::OkStatus(); }
  virtual absl::Status CheckCache(PlaneFormat /*keys*/, PlaneFormat /*values*/) const {
    return absl::OkStatus();
  }

  // Stacks the given rows (all with the same num_cols) into one matrix kept as `stored`; narrowing
  // rounds to nearest even. In 8 bits each row has a scale. Products round x as the matrix was
  // rounded: to 16 bits, or to 8. REQUIRES: CheckWeights(stored).
  virtual absl::StatusOr<std::unique_ptr<Matrix>> Pack(std::span<const HostRows> parts,
                                                       MatrixFormat stored) = 0;
  // The two matrices of GatedMatMul, of one shape, kept as one: `gate`'s rows, then `up`'s.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> PackGated(const HostRows& gate,
                                                            const HostRows& up,
                                                            MatrixFormat stored) = 0;

  // out[i, :] = table[ids[i], :]; an id below 0, ~i: the token of choices[i] of the last
  // ChooseTokens(). REQUIRES: none of those choices has allowed ids.
  virtual void Embed(const Matrix& table, std::span<const int32_t> ids, Rows out) = 0;
  // With n = norm(x), out[i, j]  = sum_k n[i, k] * w[j, k]        (kSet)
  //                   out[i, j] += sum_k n[i, k] * w[j, k]        (kAdd: one addition, last)
  enum class Store : uint8_t { kSet, kAdd };
  virtual void MatMul(const Matrix& w, ConstRows x, const RmsNorm& norm, Rows out, Store store) = 0;
  // out[i, j] = silu(sum_k n[i, k] * gate[j, k]) * sum_k n[i, k] * up[j, k], silu(g) = g / (1 +
  // e^-g)
  virtual void GatedMatMul(const Matrix& gate_up, ConstRows x, const RmsNorm& norm, Rows out) = 0;
  // out[i, :] = x[rows[i], :]. `out` may be x's own rows if `rows` ascend.
  virtual void GatherRows(ConstRows x, std::span<const int32_t> rows, Rows out) = 0;
  static constexpr int32_t kMaxHeadDim = 256;
  // Runs every way over its rows. REQUIRES: heads of at most kMaxHeadDim elements.
  virtual void PrepareAttention(const PagedArena& cache, const Projections& projections) = 0;
  // output = softmax(query . keys / sqrt(head_dim)) . values for every row of every sequence and
  // every head, over keys and values as the cache holds them. The context is cut into spans of
  // kAttentionSpan positions, each with its own maximum and sum, merged left to right. Scores read
  // from score blocks give the same bits as computed scores. REQUIRES: one head_dim in a call.
  static constexpr int32_t kAttentionSpan = 256;
  virtual void Attention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                         std::span<const PlaneGroup> groups) = 0;
  // Writes exp(query . key / sqrt(head_dim) - log-sum-exp) of the first row of `sequence` to `out`,
  // [first_position + 1], one for each position the row sees. Reads query and lse of `head`, and
  // the keys of `group`. REQUIRES: lse has been computed.
  virtual void AttentionProbabilities(const PagedArena& cache, const SequenceRows& sequence,
                                      const PlaneGroup& group, const HeadAttention& head,
                                      float* out) = 0;

  // Whether operations run while the host goes on. The engine then starts a step before it takes
  // the tokens of the step before.
  virtual bool asynchronous() const { return false; }
  // Chooses one token for each choice from its row of `logits`, [rows, vocab]. Does not wait,
  // unless a choice needs the host. TakeChosen() waits for the oldest choices not taken yet and
  // writes their tokens, [choices], or returns the device's failure. At most kMostUntaken calls may
  // be untaken.
  static constexpr int kMostUntaken = 2;
  virtual void ChooseTokens(ConstRows logits, std::span<const TokenChoice> choices) = 0;
  virtual absl::Status TakeChosen(std::span<ChosenToken> chosen) = 0;
};

struct BackendOptions {
  // "cpu", "cuda", "auto": CUDA if there is a device, else the CPU; its description then names the
  // fault of a driver or module that is there.
  std::string device = "auto";
  int32_t threads = 0;       // CPU: 0 = every core this process may use
  bool pin_threads = false;  // CPU: each thread stays on a core of its own
  // CUDA: a row's bits do not depend on how many rows are computed with it. The CPU's never do.
  bool batch_invariant = false;
  // CUDA: planes that several layers read stay in the second cache if they fit. Off for
  // comparisons.
  bool keep_shared_planes = true;
  bool times_steps = false;  // CUDA: BackendCounters::step_seconds
};

// INVALID_ARGUMENT for an unknown device, FAILED_PRECONDITION if the device is missing or the
// processor lacks AVX2.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace strata::kernels
