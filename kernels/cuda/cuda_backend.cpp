#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/attention_calls.h"
#include "kernels/check.h"

namespace strata::kernels::cuda {
namespace {

// With more rows a batch-invariant product stops reading the matrix once for every kFewRows rows.
constexpr int64_t kManyRows = 32;

class CudaBuffer final : public Buffer {
 public:
  std::byte* data() const override { return memory.data(); }
  size_t size() const override { return bytes; }

  DeviceArray<std::byte> memory;
  size_t bytes = 0;
};

const CudaMatrix& Own(const Matrix& matrix) {
  return static_cast<const CudaMatrix&>(matrix);  // a backend is given its own matrices
}

void CheckArena(const PagedArena& cache) {
  STRATA_CHECK(cache.arena != nullptr && cache.block_tokens > 0, "the cache has memory");
}

// Whether rows of x overlap rows of out in memory.
bool Overlap(ConstRows x, Rows out) {
  const float* const x_end = x.data + x.num_rows * x.stride;
  const float* const out_end = out.data + out.num_rows * out.stride;
  return x.data < out_end && out.data < x_end;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(const BackendOptions& options) {
  auto info = OpenDevice();
  if (!info.ok()) return info.status();
  std::unique_ptr<CudaBackend> backend(new CudaBackend(*std::move(info), options));
  backend->stream_.Open();
  backend->staging_.Open(backend->stream_);
  backend->inputs_.Open(&backend->stream_, &backend->staging_);
  backend->sampler_.Open(backend->stream_);
  if (options.times_steps) backend->clock_.Open(backend->stream_);
  if (absl::Status status = backend->cublas_.Open(backend->stream_); !status.ok()) return status;
  if (absl::Status status = StatusOf(backend->stream_); !status.ok()) return status;
  return backend;
}

CudaBackend::~CudaBackend() { stream_.Wait(); }

// CUDA keeps the current device for each thread.
void CudaBackend::BindThread() { stream_.Check(cudaSetDevice(0), "choosing the device"); }

std::string CudaBackend::Describe() const {
  return absl::StrCat("cuda, ", info_.name, ", compute capability ", info_.major, ".", info_.minor,
                      batch_invariant_ ? ", batch-invariant" : "");
}

std::optional<DeviceMemory> CudaBackend::device_memory() {
  DeviceMemory memory;
  stream_.Check(cudaMemGetInfo(&memory.available, &memory.total), "asking for free memory");
  return memory;
}

// Bounds the memory that the members below reserve, each in pieces of 2 MiB.
size_t CudaBackend::WorkingBytes(const StepLimits& limits) const {
  const int64_t inputs = limits.rows * (limits.inputs + kGroupBytes + 1) * 4;
  const int64_t sums = std::max(limits.rows * (limits.outputs + kOutputGroup),
                                limits.logit_rows * (limits.vocab_size + kOutputGroup)) *
                       4;
  // Lists too long for the room of a step's inputs: ids, gathered rows, positions, slots; tables.
  const int64_t rows = 2 * limits.rows * 20;
  const int64_t tables = limits.sequences * (2 * 2 * limits.table_entries * 4 + 2 * 64);
  constexpr int64_t kPieces = 16 * (int64_t{2} << 20);
  return static_cast<size_t>(inputs + sums + rows + tables + kPieces) +
         AttentionRunner::MostStateBytes(limits) + TokenSampler::MostBytes(limits);
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::Allocate(size_t bytes) {
  auto buffer = std::make_unique<CudaBuffer>();
  const size_t reserved = std::max<size_t>(bytes, 1);  // an empty buffer has an address, too
  auto memory = ReserveOrExplain(buffer->memory, stream_, reserved, "a buffer");
  if (!memory.ok()) return memory.status();
  buffer->bytes = bytes;
  stream_.Check(cudaMemsetAsync(*memory, 0, reserved, stream_.handle()), "clearing memory");
  return buffer;
}

void CudaBackend::CopyFromHost(std::byte* destination, std::span<const std::byte> source) {
  staging_.Send(stream_, destination, source.data(), source.size());
}

void CudaBackend::CopyToHost(std::span<std::byte> destination, const std::byte* source) {
  stream_.Copy(destination.data(), source, destination.size(), cudaMemcpyDeviceToHost);
  stream_.Wait();
  inputs_.Begin();
}

void CudaBackend::Copy(std::byte* destination, const std::byte* source, size_t bytes) {
  stream_.Copy(destination, source, bytes, cudaMemcpyDeviceToDevice);
}

absl::Status CudaBackend::Synchronize() {
  stream_.Wait();
  inputs_.Begin();
  return StatusOf(stream_);
}

void CudaBackend::BeginStep(bool repeats) {
  stream_.EndStep();
  inputs_.Begin();
  stream_.BeginStep(repeats);
  clock_.Begin(stream_);
}

// Ada's tensor cores have e4m3 too, but fp8 weights are meant for Hopper.
absl::Status CudaBackend::CheckWeights(MatrixFormat stored) const {
  if (stored != MatrixFormat::kF8 || info_.major >= 9) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("weights in fp8: ", info_.name,
                                               " has compute capability ", info_.major, ".",
                                               info_.minor, ", 9.0 is the least"));
}

absl::StatusOr<std::unique_ptr<Matrix>> CudaBackend::Pack(std::span<const HostRows> parts,
                                                          MatrixFormat stored) {
  STRATA_CHECK(CheckWeights(stored).ok(), "the device has such weights");
  auto packed = CudaMatrix::Pack(parts, CudaMatrix::Order::kStacked, stored, stream_, staging_);
  if (!packed.ok()) return packed.status();
  return *std::move(packed);
}

absl::StatusOr<std::unique_ptr<Matrix>> CudaBackend::PackGated(const HostRows& gate,
                                                               const HostRows& up,
                                                               MatrixFormat stored) {
  STRATA_CHECK(CheckWeights(stored).ok(), "the device has such weights");
  STRATA_CHECK(gate.num_rows == up.num_rows, "a gate for every up");
  const HostRows parts[] = {gate, up};
  auto packed = CudaMatrix::Pack(parts, CudaMatrix::Order::kGated, stored, stream_, staging_);
  if (!packed.ok()) return packed.status();
  return *std::move(packed);
}

void CudaBackend::Embed(const Matrix& table, std::span<const int32_t> ids, Rows out) {
  const CudaMatrix& rows = Own(table);
  STRATA_CHECK(std::ssize(ids) == out.num_rows, "an id for every row");
  STRATA_CHECK(rows.num_inputs() == out.num_cols, "rows are as wide as the table");
  for (const int32_t id : ids) {
    STRATA_CHECK(id < rows.num_outputs() && ~id < sampler_.num_tokens(),
                 "ids are rows of the table, or numbers of choices");
  }
  EmbedRows(stream_, rows.rows(), rows.gated() ? rows.num_results() : 0,
            inputs_.Put(StepInputs::kIds, ids), sampler_.tokens(), out);
}

void CudaBackend::MatMul(const Matrix& w, ConstRows x, const RmsNorm& norm, Rows out, Store store) {
  STRATA_CHECK(!Own(w).gated(), "gated matrices are for GatedMatMul");
  Multiply(Own(w), x, norm, out, store == Store::kAdd);
}

void CudaBackend::GatedMatMul(const Matrix& gate_up, ConstRows x, const RmsNorm& norm, Rows out) {
  STRATA_CHECK(Own(gate_up).gated(), "gates stand beside their ups");
  Multiply(Own(gate_up), x, norm, out, /*add=*/false);
}

void CudaBackend::Multiply(const CudaMatrix& w, ConstRows x, const RmsNorm& norm, Rows out,
                           bool add) {
  STRATA_CHECK(x.num_cols == w.num_inputs(), "x is as wide as the matrix");
  STRATA_CHECK(out.num_cols == w.num_results(), "out is as wide as the product");
  STRATA_CHECK(x.num_rows == out.num_rows, "a row out for every row in");
  ++counters_.matrix_products;
  if (x.num_rows == 0) return;
  const StoredRows& weights = w.rows();
  std::byte* const inputs = product_inputs_.Reserve(
      stream_, static_cast<size_t>(x.num_rows) * RowBytes(weights.format, weights.stride));
  float* scales = nullptr;
  if (HasScale(weights.format)) {
    scales = input_scales_.Reserve(stream_, static_cast<size_t>(x.num_rows));
  }
  PrepareInputs(stream_, x, norm.weight, norm.epsilon, weights.format, weights.stride, inputs,
                scales);
  const Product product = {.weights = weights,
                           .weight_rows = w.stored_rows(),
                           .x = inputs,
                           .x_scales = scales,
                           .out = out,
                           .epilogue = w.gated() ? Epilogue::kGate
                                       : add     ? Epilogue::kAdd
                                                 : Epilogue::kSet};
  if (!batch_invariant_ && x.num_rows > kFewRows) {
    if (MultiplyByCublas(product)) return;
    NoteMissingPlan(product);
  }
  if (weights.format == MatrixFormat::kF32) {
    MultiplyF32(stream_, product);
  } else if (x.num_rows <= kManyRows) {
    MultiplyFewRows(stream_, product);
  } else {
    MultiplyManyRows(stream_, product);
  }
}

// One note for each matrix: the rows differ from step to step.
void CudaBackend::NoteMissingPlan(const Product& product) {
  const StoredRows& w = product.weights;
  if (!noted_.emplace(w.format, product.weight_rows, w.num_inputs).second) return;
  notes_.push_back(absl::StrCat("cuBLASLt has no plan for ", product.out.num_rows,
                                " rows times a matrix of ", product.weight_rows, " outputs and ",
                                w.num_inputs, " inputs in ", std::string(FormatName(w.format)),
                                ": such products run on kernels of our own, which are slower"));
}

bool CudaBackend::MultiplyByCublas(const Product& product) {
  const StoredRows& w = product.weights;
  const Rows& out = product.out;
  const bool whole = product.epilogue != Epilogue::kGate && !HasScale(w.format);
  if (whole) {
    return cublas_.Multiply(stream_, w.format, w.data, product.x, w.stride, out,
                            product.epilogue == Epilogue::kAdd);
  }
  // Padding is multiplied too: zeros.
  const int64_t width = product.weight_rows;
  float* const sums = sums_.Reserve(stream_, static_cast<size_t>(out.num_rows * width));
  if (!cublas_.Multiply(stream_, w.format, w.data, product.x, w.stride,
                        {sums, out.num_rows, width, width}, /*add=*/false)) {
    return false;
  }
  FinishSums(stream_, product, sums);
  return true;
}

void CudaBackend::GatherRows(ConstRows x, std::span<const int32_t> rows, Rows out) {
  STRATA_CHECK(std::ssize(rows) == out.num_rows && x.num_cols == out.num_cols, "one width");
  for (const int32_t row : rows) {
    STRATA_CHECK(row >= 0 && row < x.num_rows, "rows are rows of x");
  }
  Gather(stream_, x, inputs_.Put(StepInputs::kGathered, rows), out, Overlap(x, out));
}

void CudaBackend::PrepareAttention(const PagedArena& cache, const Projections& projections) {
  CheckProjections(cache, projections);
  ProjectionArgs args;
  args.num_rows = projections.num_rows;
  args.positions = inputs_.Put(StepInputs::kPositions, projections.positions);
  args.slots = inputs_.Put(StepInputs::kSlots, projections.slots);
  args.arena = cache.arena;
  args.place_bytes = cache.place_bytes;
  args.block_tokens = std::max(cache.block_tokens, 1);
  args.key_format = cache.key_format;
  args.value_format = cache.value_format;
  for (const HeadWay& way : projections.ways) {
    if (way.is_written) CheckArena(cache);
    if (args.num_ways == kMaxWays) {
      RunWays(stream_, args);
      args.num_ways = 0;
    }
    args.ways[args.num_ways++] = way;
  }
  RunWays(stream_, args);
  CountWrites(cache, projections, &counters_);
}

void CudaBackend::Attention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                            std::span<const PlaneGroup> groups) {
  CheckArena(cache);
  CheckAttention(cache, sequences, groups);
  attention_.Run(stream_, inputs_, cache, sequences, groups);
  CountReads(cache, sequences, groups, &counters_);
}

void CudaBackend::AttentionProbabilities(const PagedArena& cache, const SequenceRows& sequence,
                                         const PlaneGroup& group, const HeadAttention& head,
                                         float* out) {
  CheckArena(cache);
  attention_.Probabilities(stream_, inputs_, cache, sequence, group, head, out);
}

void CudaBackend::ChooseTokens(ConstRows logits, std::span<const TokenChoice> choices) {
  STRATA_CHECK(!choices.empty(), "there is something to choose");
  for (const TokenChoice& choice : choices) {
    STRATA_CHECK(choice.row >= 0 && choice.row < logits.num_rows, "rows are rows of the logits");
    STRATA_CHECK(choice.num_logprobs <= kMaxLogprobs, "as many as there is room for");
  }
  sampler_.Choose(stream_, inputs_, logits, choices, clock_);
  attention_.ForgetTables();
}

absl::Status CudaBackend::TakeChosen(std::span<ChosenToken> chosen) {
  sampler_.Take(stream_, chosen);
  counters_.step_seconds += clock_.Take(stream_);
  return StatusOf(stream_);
}

}  // namespace strata::kernels::cuda
