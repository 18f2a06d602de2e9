#include "engine/model/weights.h"

#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "engine/base/errors.h"
#include "engine/model/host_floats.h"
#include "engine/model/tensor_names.h"

namespace strata::engine {
namespace {

using kernels::HostRows;
using Shape = std::vector<int64_t>;

// The living heads of one projection, and its number of heads in full.
struct LivingHeads {
  std::vector<int32_t> heads;  // ascending
  int32_t all = 0;
};

// Brings tensors from a checkpoint to a backend and accounts for them. status() keeps the first
// failure; every call after it does nothing, so that the code of a layer is the list of its
// tensors.
class Loader {
 public:
  Loader(const TensorSource& tensors, kernels::DType dtype, kernels::Backend* backend)
      : tensors_(tensors), dtype_(dtype), backend_(backend) {}

  std::unique_ptr<kernels::Buffer> Norm(const std::string& name, int64_t size);
  // Loads one tensor whole.
  std::unique_ptr<kernels::Matrix> Matrix(const std::string& name, const Shape& shape);
  // Appends a whole tensor to the parts of the next Pack.
  void Append(const std::string& name, const Shape& shape);
  // Appends the rows of a projection's living heads.
  void AppendHeads(const std::string& name, const LivingHeads& living, int64_t head_dim,
                   int64_t hidden);
  // Stacks the appended parts; null if there are none.
  std::unique_ptr<kernels::Matrix> Pack();
  // Packs two appended tensors, gates and then ups.
  std::unique_ptr<kernels::Matrix> PackGated();

  bool Has(const std::string& name) const { return tensors_.Has(name); }
  // Fails unless the unused tensor `copy` has the same dtype and bytes as `name`.
  void CheckSame(const std::string& name, const std::string& copy, const Shape& shape);
  // Counts a tensor that was read elsewhere.
  void MarkUsed(const std::string& name, int64_t elements) {
    used_.insert(name);
    parameters_ += elements;
  }

  const absl::Status& status() const { return status_; }
  // Writes the account to `weights`: bytes, parameters, unused tensors. Unused tensors of a dtype
  // that cannot be loaded count 0 bytes.
  void Finish(Weights& weights) const;

 private:
  // nullopt, with status() set, unless the tensor is there in one of the two shapes.
  std::optional<TensorView> Find(const std::string& name, const Shape& shape,
                                 const std::optional<Shape>& or_shape = std::nullopt);
  template <typename PackParts>
  std::unique_ptr<kernels::Matrix> PackWith(PackParts pack);
  template <typename T>
  std::unique_ptr<T> Keep(absl::StatusOr<std::unique_ptr<T>> made, size_t bytes) {
    if (!made.ok()) {
      status_ = made.status();
      return nullptr;
    }
    bytes_ += bytes;
    return *std::move(made);
  }

  const TensorSource& tensors_;
  kernels::DType dtype_;
  kernels::Backend* backend_;
  absl::Status status_;
  std::vector<HostRows> parts_;
  std::vector<TensorView> sources_;  // of parts_
  std::set<std::string, std::less<>> used_;
  std::map<std::string, size_t> unused_in_part_;  // of used_: name and unused bytes
  size_t bytes_ = 0;
  int64_t parameters_ = 0;
};

std::optional<TensorView> Loader::Find(const std::string& name, const Shape& shape,
                                       const std::optional<Shape>& or_shape) {
  if (!status_.ok()) return std::nullopt;
  std::string expected = ShapeText(shape);
  if (or_shape) expected += " or " + ShapeText(*or_shape);
  absl::StatusOr<TensorView> tensor = tensors_.Find(name);
  if (absl::IsNotFound(tensor.status())) {
    status_ = InvalidArgument(name, ": missing, expected ", expected);
  } else if (!tensor.ok()) {
    status_ = tensor.status();
  } else if (tensor->shape != shape && tensor->shape != or_shape) {
    status_ = InvalidArgument(name, ": expected ", expected, ", found ", ShapeText(tensor->shape));
  }
  if (!status_.ok()) return std::nullopt;
  used_.insert(name);
  return *std::move(tensor);
}

std::unique_ptr<kernels::Buffer> Loader::Norm(const std::string& name, int64_t size) {
  const std::optional<TensorView> tensor = Find(name, {size});
  if (!tensor) return nullptr;
  const std::vector<float> floats = HostFloats(*tensor);
  const auto bytes = std::as_bytes(std::span(floats));
  std::unique_ptr<kernels::Buffer> buffer = Keep(backend_->Allocate(bytes.size()), bytes.size());
  if (buffer == nullptr) return nullptr;
  backend_->CopyFromHost(buffer->data(), bytes);
  // The copy may still be under way, and `floats` ends here.
  status_ = backend_->Synchronize();
  parameters_ += size;
  return buffer;
}

std::unique_ptr<kernels::Matrix> Loader::Matrix(const std::string& name, const Shape& shape) {
  Append(name, shape);
  return Pack();
}

void Loader::CheckSame(const std::string& name, const std::string& copy, const Shape& shape) {
  const std::optional<TensorView> tensor = Find(name, shape);
  const std::optional<TensorView> other = Find(copy, shape);
  if (!tensor || !other) return;
  used_.erase(copy);
  if (tensor->dtype != other->dtype || std::memcmp(tensor->data, other->data, tensor->bytes) != 0) {
    status_ = InvalidArgument(copy, ": not the same as ", name,
                              ", though config.json has tie_word_embeddings = true; set it to "
                              "false, or leave the tensor out");
  }
  tensors_.Release(*other);
}

void Loader::Append(const std::string& name, const Shape& shape) {
  const std::optional<TensorView> tensor = Find(name, shape);
  if (!tensor) return;
  parts_.push_back({tensor->dtype, tensor->data, shape[0], shape[1]});
  sources_.push_back(*tensor);
}

void Loader::AppendHeads(const std::string& name, const LivingHeads& living, int64_t head_dim,
                         int64_t hidden) {
  if (living.heads.empty()) return;
  const Shape full = {living.all * head_dim, hidden};
  const Shape trimmed = {static_cast<int64_t>(living.heads.size()) * head_dim, hidden};
  const std::optional<TensorView> tensor =
      full == trimmed ? Find(name, full) : Find(name, trimmed, full);
  if (!tensor) return;
  sources_.push_back(*tensor);
  if (tensor->shape == trimmed) {
    parts_.push_back({tensor->dtype, tensor->data, trimmed[0], hidden});
    return;
  }
  const size_t head_bytes = tensor->bytes / static_cast<size_t>(living.all);
  unused_in_part_.emplace(name, tensor->bytes - living.heads.size() * head_bytes);
  for (const int32_t head : living.heads) {
    const std::byte* rows = tensor->data + static_cast<size_t>(head) * head_bytes;
    parts_.push_back({tensor->dtype, rows, head_dim, hidden});
  }
}

std::unique_ptr<kernels::Matrix> Loader::Pack() {
  return PackWith([&] { return backend_->Pack(parts_, dtype_); });
}

std::unique_ptr<kernels::Matrix> Loader::PackGated() {
  return PackWith([&] { return backend_->PackGated(parts_[0], parts_[1], dtype_); });
}

// Makes a matrix of the appended parts by `pack`.
template <typename PackParts>
std::unique_ptr<kernels::Matrix> Loader::PackWith(PackParts pack) {
  std::unique_ptr<kernels::Matrix> matrix;
  if (status_.ok() && !parts_.empty()) matrix = Keep(pack(), 0);
  if (matrix != nullptr) {
    for (const TensorView& source : sources_) tensors_.Release(source);
    bytes_ += matrix->bytes();
    for (const HostRows& part : parts_) parameters_ += part.num_rows * part.num_cols;
  }
  parts_.clear();
  sources_.clear();
  return matrix;
}

void Loader::Finish(Weights& weights) const {
  weights.bytes = bytes_;
  weights.parameters = parameters_;
  for (std::string& name : tensors_.Names()) {
    if (const auto part = unused_in_part_.find(name); part != unused_in_part_.end()) {
      weights.unused.push_back(name + " (in part)");
      weights.unused_bytes += part->second;
    } else if (!used_.contains(name)) {
      const absl::StatusOr<TensorView> tensor = tensors_.Find(name);
      if (tensor.ok()) weights.unused_bytes += tensor->bytes;
      weights.unused.push_back(std::move(name));
    }
  }
}

LayerWeights LoadLayer(Loader& loader, const ModelConfig& config, const kvcache::SharingPlan& plan,
                       int32_t layer) {
  const kvcache::AttentionShape& shape = config.attention;
  const int64_t d = shape.head_dim;
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const auto name = [layer](std::string_view rest) { return LayerTensorName(layer, rest); };

  LayerWeights weights;
  weights.input_norm = loader.Norm(name("input_layernorm.weight"), hidden);
  loader.AppendHeads(name("self_attn.q_proj.weight"),
                     {plan.QueryHeads(layer), shape.num_query_heads}, d, hidden);
  loader.AppendHeads(name("self_attn.k_proj.weight"), {plan.KeyHeads(layer), shape.num_kv_heads}, d,
                     hidden);
  loader.AppendHeads(name("self_attn.v_proj.weight"), {plan.ValueHeads(layer), shape.num_kv_heads},
                     d, hidden);
  weights.qkv = loader.Pack();
  if (plan.learnable_mix(layer)) loader.MarkUsed(name(kValueMixName), 2);
  weights.output =
      loader.Matrix(name("self_attn.o_proj.weight"), {hidden, shape.num_query_heads * d});
  weights.post_attention_norm = loader.Norm(name("post_attention_layernorm.weight"), hidden);
  loader.Append(name("mlp.gate_proj.weight"), {intermediate, hidden});
  loader.Append(name("mlp.up_proj.weight"), {intermediate, hidden});
  weights.gate_up = loader.PackGated();
  weights.down = loader.Matrix(name("mlp.down_proj.weight"), {hidden, intermediate});
  return weights;
}

}  // namespace

absl::StatusOr<Weights> LoadWeights(const ModelConfig& config, const kvcache::SharingPlan& plan,
                                    const TensorSource& tensors, kernels::DType dtype,
                                    kernels::Backend* backend) {
  Loader loader(tensors, dtype, backend);
  const Shape table = {config.vocab_size, config.hidden_size};
  Weights weights;
  // A tied model stores either of the two. If it stores both, they must be equal, as readers
  // differ:
  // transformers 5 takes the head, vLLM and earlier versions the embedding.
  const bool stores_both = loader.Has(kEmbeddingName) && loader.Has(kHeadName);
  if (config.tied_embeddings && stores_both) loader.CheckSame(kEmbeddingName, kHeadName, table);
  const bool stored_as_head = config.tied_embeddings && !loader.Has(kEmbeddingName);
  weights.embedding =
      loader.Matrix(stored_as_head && loader.Has(kHeadName) ? kHeadName : kEmbeddingName, table);
  if (!config.tied_embeddings) weights.head = loader.Matrix(kHeadName, table);
  for (int32_t layer = 0; layer < config.attention.num_layers && loader.status().ok(); ++layer) {
    weights.layers.push_back(LoadLayer(loader, config, plan, layer));
  }
  weights.final_norm = loader.Norm(kFinalNormName, config.hidden_size);
  if (!loader.status().ok()) return loader.status();
  loader.Finish(weights);
  return weights;
}

}  // namespace strata::engine
