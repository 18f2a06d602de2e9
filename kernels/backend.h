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

enum class PlaneKind : uint8_t { kKey, kValue };

// Bytes of a plane that a token takes. In 8 bits they are head_dim numbers, padded to whole words,
// and the f32 scale that all of them are multiplied with.
constexpr size_t PlaneTokenBytes(DType dtype, int32_t head_dim) {
  const size_t numbers = static_cast<size_t>(head_dim) * DTypeSize(dtype);
  return HasScale(dtype) ? (numbers + 3) / 4 * 4 + sizeof(float) : numbers;
}

// The paged cache as kernels see it. Block b starts at `arena + b * block_bytes`; a plane holds
// [block_tokens, head_dim] elements of its dtype at a byte offset inside every block. The order of
// the elements inside a plane is the backend's own affair (the CPU keeps keys transposed). In 8
// bits the block's scales, [block_tokens], are the plane's last bytes.
//
// Beside the planes, in blocks of their own, stand the scores that a decode step keeps for later
// layers: score block b starts at `scores + b * score_slots * block_tokens` and holds
// [score_slots][block_tokens] of query . key / sqrt(head_dim).
struct PagedArena {
  std::byte* arena = nullptr;
  size_t block_bytes = 0;
  int32_t block_tokens = 0;
  int32_t head_dim = 0;
  DType key_dtype = DType::kF32;
  DType value_dtype = DType::kF32;
  float* scores = nullptr;
  int32_t score_slots = 0;

  DType dtype(PlaneKind kind) const { return kind == PlaneKind::kKey ? key_dtype : value_dtype; }
  size_t TokenBytes(PlaneKind kind) const { return PlaneTokenBytes(dtype(kind), head_dim); }
  // Bytes into a plane in 8 bits.
  size_t ScalesOffset() const {
    return static_cast<size_t>(block_tokens) *
           (PlaneTokenBytes(DType::kI8, head_dim) - sizeof(float));
  }
};

// One kv head of one layer on its way into the cache.
struct PlaneWrite {
  PlaneKind kind = PlaneKind::kKey;
  size_t plane_offset = 0;        // bytes into the block
  const float* source = nullptr;  // [num_rows, head_dim], rows `source_stride` floats apart
  int64_t source_stride = 0;
};

// Neighbouring value heads mixed with the first layer's (ResFormer, arXiv 2410.17897):
// values[i, :] = own * values[i, :] + first * first_values[i, :]
struct ValueMix {
  Rows values = {};
  ConstRows first_values = {};
  float own = 1;
  float first = 0;
};

// What a layer's projections [num_rows] go through before attention, in this order.
struct Projections {
  // Whole heads, queries and keys, rotated in place by the angles of positions[i]:
  // (x[j], x[j + d/2]) turn by table angle j (the "rotate half" convention of Hugging Face's
  // Llama). No columns: none. rope_table: [max_positions, d] = cos[d/2] then sin[d/2].
  Rows rotated = {};
  std::span<const int32_t> positions = {};  // [num_rows]
  const float* rope_table = nullptr;
  std::span<const ValueMix> mixes = {};
  // Row i of every write goes to token slots[i] % block_tokens of block slots[i] / block_tokens;
  // that of kNoSlot, which pads a step (Backend::PaddedRows), goes nowhere.
  std::span<const PlaneWrite> writes = {};
  std::span<const int64_t> slots = {};  // [num_rows]
};

constexpr int64_t kNoSlot = -1;

// RMSNorm of what goes into a product: x[i, :] / sqrt(mean(x[i, :]^2) + epsilon) * weight.
struct RmsNorm {
  const float* weight = nullptr;  // [num_cols], backend memory; null: x goes in as it is
  float epsilon = 0;
};

// The rows of one sequence in a batch: row `first_row + i` stands at position
// `first_position + i` and attends to positions [0, first_position + i]. What the tables hold stays
// as long as the step: up to the next BeginStep(), ChooseTokens(), Synchronize() or CopyToHost().
struct SequenceRows {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_position = 0;
  const int32_t* block_table = nullptr;  // block ids, host memory; covers every position read
  // Score blocks that cover every position read, private to the sequence: heads with a score_slot
  // keep their scores there, or find them. Null: reused scores are computed again (routed).
  // REQUIRES one row where not null.
  const int32_t* score_table = nullptr;
};

// One query head of the running layer. `query` belongs to the head that owns the scores: the head
// itself, or, where scores are reused, an earlier layer's (routing: same queries, same key plane,
// other values). A sequence with a score table is not routed: its scores are read instead.
struct HeadAttention {
  const float* query = nullptr;  // [num_rows, head_dim] after RoPE, `query_stride` floats apart
  int64_t query_stride = 0;
  size_t key_offset = 0;  // plane offsets in bytes into a block
  size_t value_offset = 0;
  // Null: the head computes its softmax. Else [num_rows], rows `lse_stride` apart: the owner's
  // log-sum-exp, and probabilities are exp(score - log_sum_exp).
  const float* reused_lse = nullptr;
  float* lse = nullptr;  // out, may be null: [num_rows], rows `lse_stride` apart
  int64_t lse_stride = 0;
  // Where the scores are kept, or with reused_lse found; -1: nowhere. Of a call's heads that read
  // one pair of planes all find theirs, or none does; some may keep theirs, and others not.
  int32_t score_slot = -1;
  // Whether other layers of the step read the same plane: worth keeping in a cache.
  bool keys_again = false;
  bool values_again = false;
  float* output = nullptr;  // [num_rows, head_dim], rows `output_stride` floats apart
  int64_t output_stride = 0;
};

// What a backend has done since it was made; tests and benchmarks take differences.
struct BackendCounters {
  int64_t matrix_products = 0;
  int64_t cache_bytes_written = 0;
  int64_t cache_bytes_read = 0;  // by attention: every plane row a query's span reads, once a group
  int64_t score_bytes_written = 0;
  int64_t score_bytes_read = 0;
  // What steps whose tokens were taken took the device from the first operation to the last, by its
  // own clock, where BackendOptions::times_steps asks for it.
  double step_seconds = 0;
};

// Of a device that has memory of its own, in bytes.
struct DeviceMemory {
  size_t total = 0;
  size_t available = 0;
};

// What no step to come is larger than.
struct StepLimits {
  int64_t rows = 0;
  int64_t logit_rows = 0;  // of them with logits
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
// sums, whatever other rows are in the call, how rows are cut into calls, and on how many threads.
//
// Threads: one thread at a time (the engine's). Operations may run asynchronously in order;
// Synchronize() and CopyToHost() wait. Sizes are checked by STRATA_CHECK: a mismatch is our bug.
class Backend {
 public:
  virtual ~Backend() = default;

  // One line for whoever runs the server about each slow path that was taken since the last call,
  // and why; none where nothing is new.
  virtual std::vector<std::string> TakeNotes() { return {}; }
  // Why attention over such a cache takes a slow path, in one line; empty: it does not.
  virtual std::string WhyAttentionIsSlow(const PagedArena&) const { return {}; }

  // Called by the thread that will call everything from now on, where `pin_threads` asks for it.
  virtual void BindThread() {}

  // For people: "cpu, AVX3, 2 threads".
  virtual std::string Describe() const = 0;
  virtual BackendCounters counters() const = 0;

  // None where it computes in the host's memory.
  virtual std::optional<DeviceMemory> device_memory() { return std::nullopt; }
  // Tokens in a step that keep the device busy: what a step has room for where nobody says
  // otherwise.
  virtual int32_t StepTokens() const { return 512; }
  // Bytes of its own working memory that steps within these limits may take, at most. It grows to
  // what the largest step needed.
  virtual size_t WorkingBytes(const StepLimits&) const { return 0; }

  // RESOURCE_EXHAUSTED with the number of bytes when memory is short.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  virtual void CopyFromHost(std::byte* destination, std::span<const std::byte> source) = 0;
  virtual void CopyToHost(std::span<std::byte> destination, const std::byte* source) = 0;
  // Within the backend's memory; the two do not overlap.
  virtual void Copy(std::byte* destination, const std::byte* source, size_t bytes) = 0;
  // A step begins: what follows, up to the next ChooseTokens(), CopyToHost() or Synchronize(), may
  // be held back to be run as a whole. `repeats`: it is likely to come again, the same operations
  // on the same memory, as decode steps do.
  virtual void BeginStep(bool /*repeats*/) {}
  // How many rows a step of so many decodes had better have, so that few kinds of steps come again
  // and again. Those added belong to no sequence; their slots are kNoSlot.
  virtual int64_t PaddedRows(int64_t decodes) const { return decodes; }
  // Waits for all work. An error is the end of the device: nothing runs after it, and every later
  // call says it again.
  virtual absl::Status Synchronize() = 0;

  // OK, or UNIMPLEMENTED, one line, where matrices, or planes of the cache, are not kept so here.
  virtual absl::Status CheckWeights(DType) const { return absl::OkStatus(); }
  virtual absl::Status CheckCache(DType /*keys*/, DType /*values*/) const {
    return absl::OkStatus();
  }

  // Stacks the given rows (all with the same num_cols) into one matrix kept as `stored`; narrowing
  // rounds to nearest even. In 8 bits each row has a scale. Products round x as the matrix was
  // rounded: to 16 bits, or to 8. REQUIRES: CheckWeights(stored).
  virtual absl::StatusOr<std::unique_ptr<Matrix>> Pack(std::span<const HostRows> parts,
                                                       DType stored) = 0;
  // The two matrices of GatedMatMul, of one shape, kept as one: `gate`'s rows, then `up`'s.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> PackGated(const HostRows& gate,
                                                            const HostRows& up, DType stored) = 0;

  // out[i, :] = table[ids[i], :]; an id below 0, ~i: the token of choices[i] of the last
  // ChooseTokens().
  virtual void Embed(const Matrix& table, std::span<const int32_t> ids, Rows out) = 0;
  // With n = norm(x), out[i, j]  = sum_k n[i, k] * w[j, k]        (kSet)
  //                   out[i, j] += sum_k n[i, k] * w[j, k]        (kAdd: one addition, last)
  enum class Store : uint8_t { kSet, kAdd };
  virtual void MatMul(const Matrix& w, ConstRows x, const RmsNorm& norm, Rows out, Store store) = 0;
  // out[i, j] = silu(sum_k n[i, k] * gate[j, k]) * sum_k n[i, k] * up[j, k], silu(g) = g / (1 +
  // e^-g)
  virtual void GatedMatMul(const Matrix& gate_up, ConstRows x, const RmsNorm& norm, Rows out) = 0;
  // out[i, :] = x[rows[i], :]. `out` may be x's own rows where `rows` ascend.
  virtual void GatherRows(ConstRows x, std::span<const int32_t> rows, Rows out) = 0;
  // Rotates, mixes and writes to the cache.
  virtual void PrepareAttention(const PagedArena& cache, const Projections& projections) = 0;
  // output = softmax(query . keys / sqrt(head_dim)) . values for every row of every sequence and
  // every head, over keys and values as the cache holds them. The context is cut into spans of
  // kAttentionSpan positions, each with its own maximum and sum, merged left to right. Scores that
  // are found in score blocks give the same bits as scores that are computed.
  static constexpr int32_t kAttentionSpan = 256;
  virtual void Attention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                         std::span<const HeadAttention> heads) = 0;
  // exp(query . key / sqrt(head_dim) - log-sum-exp) of the first row of `sequence`
  // for every position that it sees, [first_position + 1], to `out`. `head`: query, key_offset and
  // lse, which has been computed.
  virtual void AttentionProbabilities(const PagedArena& cache, const SequenceRows& sequence,
                                      const HeadAttention& head, float* out) = 0;

  // Whether tokens can be chosen where the logits are. Else logits are read by the host.
  virtual bool chooses_tokens() const { return false; }
  // Chooses a token by each of the choices from its row of `logits`, [rows, vocab], and does not
  // wait: TakeChosen() does, and tells what the oldest choices that were not taken came to, or that
  // the device has failed. At most kMostUntaken may be open. REQUIRES: chooses_tokens().
  static constexpr int kMostUntaken = 2;
  virtual void ChooseTokens(ConstRows, std::span<const TokenChoice>) {}
  virtual absl::Status TakeChosen(std::span<ChosenToken> /*[choices]*/) { return absl::OkStatus(); }
};

struct BackendOptions {
  // "cpu", "cuda", "auto": CUDA where there is a device, else the CPU, whose description then says
  // what is wrong with a driver or module that is there.
  std::string device = "auto";
  int32_t threads = 0;       // CPU: 0 = every core this process may use
  bool pin_threads = false;  // CPU: each thread stays on a core of its own
  // CUDA: a row's bits do not depend on how many rows are computed with it. The CPU's never do.
  bool batch_invariant = false;
  // CUDA: planes that several layers read stay in the second cache, where they fit. Off to compare.
  bool keep_shared_planes = true;
  bool times_steps = false;  // CUDA: BackendCounters::step_seconds
};

// INVALID_ARGUMENT for an unknown device, FAILED_PRECONDITION where the device is missing or the
// processor lacks AVX2.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace strata::kernels
