#include "engine/model/weights.h"

#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "engine/model/host_floats.h"
#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

using kernels::HostRows;

// Brings tensors from a checkpoint to a backend and accounts for them. status() keeps the first
// failure; every call after it does nothing, so that the code of a layer is the list of its
// tensors.
class Loader {
 public:
  Loader(const TensorSource& tensors, kernels::MatrixFormat format, kernels::Backend* backend)
      : tensors_(tensors), format_(format), backend_(backend) {}

  std::unique_ptr<kernels::Buffer> Norm(const TensorSpec& norm);
  // Loads one matrix whole.
  std::unique_ptr<kernels::Matrix> Matrix(const TensorSpec& matrix);
  // Appends the needed rows of a matrix to the parts of the next Pack.
  void Append(const TensorSpec& matrix);
  // Stacks the appended parts; null if there are none.
  std::unique_ptr<kernels::Matrix> Pack();
  // Packs two appended matrices, gates and then ups.
  std::unique_ptr<kernels::Matrix> PackGated();
  // Counts a tensor that was read elsewhere.
  void MarkUsed(const TensorSpec& tensor);

  const absl::Status& status() const { return status_; }
  // Writes the account to `weights`: bytes, parameters, unused tensors. Unused tensors of a dtype
  // that cannot be loaded count 0 bytes.
  void Finish(Weights& weights) const;

 private:
  // nullopt, with status() set, unless the tensor is there, in full or with living heads alone.
  std::optional<TensorView> Find(const TensorSpec& tensor);
  // The name that the tensor has here. Fails if it is there under both, and the two differ.
  std::string NameHere(const TensorSpec& tensor);
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
  kernels::MatrixFormat format_;
  kernels::Backend* backend_;
  absl::Status status_;
  std::vector<HostRows> parts_;
  std::vector<TensorView> sources_;  // of parts_
  std::set<std::string, std::less<>> used_;
  std::map<std::string, size_t> unused_in_part_;  // of used_: name and unused bytes
  size_t bytes_ = 0;
  int64_t parameters_ = 0;
};

// If both are stored they must be equal, as readers differ: of a tied embedding and head,
// transformers 5 takes the head, vLLM and earlier versions the embedding.
std::string Loader::NameHere(const TensorSpec& tensor) {
  if (tensor.or_name.empty() || !tensors_.Has(tensor.or_name)) return tensor.name;
  if (!tensors_.Has(tensor.name)) return tensor.or_name;
  const absl::StatusOr<TensorView> one = tensors_.Find(tensor.name);
  const absl::StatusOr<TensorView> other = tensors_.Find(tensor.or_name);
  status_.Update(one.status());
  status_.Update(other.status());
  if (!status_.ok()) return tensor.name;
  if (one->shape != other->shape || one->dtype != other->dtype ||
      std::memcmp(one->data, other->data, one->bytes) != 0) {
    status_ = InvalidArgument(tensor.or_name, ": not the same as ", tensor.name,
                              ", though config.json has tie_word_embeddings = true; set it to "
                              "false, or leave the tensor out");
  }
  tensors_.Release(*other);
  return tensor.name;
}

std::optional<TensorView> Loader::Find(const TensorSpec& tensor) {
  if (!status_.ok()) return std::nullopt;
  const std::string name = NameHere(tensor);
  const std::vector<int64_t> living = tensor.LivingShape();
  std::string expected = ShapeText(living);
  if (living != tensor.shape) expected += " or " + ShapeText(tensor.shape);
  absl::StatusOr<TensorView> found = tensors_.Find(name);
  if (!status_.ok()) {
    return std::nullopt;
  } else if (absl::IsNotFound(found.status())) {
    status_ = InvalidArgument(name, ": missing, expected ", expected);
  } else if (!found.ok()) {
    status_ = found.status();
  } else if (found->shape != living && found->shape != tensor.shape) {
    status_ = InvalidArgument(name, ": expected ", expected, ", found ", ShapeText(found->shape));
  }
  if (!status_.ok()) return std::nullopt;
  used_.insert(name);
  return *std::move(found);
}

std::unique_ptr<kernels::Buffer> Loader::Norm(const TensorSpec& norm) {
  const std::optional<TensorView> tensor = Find(norm);
  if (!tensor) return nullptr;
  const std::vector<float> floats = HostFloats(*tensor);
  const auto bytes = std::as_bytes(std::span(floats));
  std::unique_ptr<kernels::Buffer> buffer = Keep(backend_->Allocate(bytes.size()), bytes.size());
  if (buffer == nullptr) return nullptr;
  backend_->CopyFromHost(buffer->data(), bytes);
  // The copy may still be under way, and `floats` ends here.
  status_ = backend_->Synchronize();
  parameters_ += std::ssize(floats);
  return buffer;
}

std::unique_ptr<kernels::Matrix> Loader::Matrix(const TensorSpec& matrix) {
  Append(matrix);
  return Pack();
}

void Loader::MarkUsed(const TensorSpec& tensor) {
  if (!tensor.needed) return;
  used_.insert(tensor.name);
  parameters_ += tensor.shape[0];
}

void Loader::Append(const TensorSpec& matrix) {
  if (!matrix.needed) return;
  const std::optional<TensorView> tensor = Find(matrix);
  if (!tensor) return;
  sources_.push_back(*tensor);
  const std::vector<int64_t> living = matrix.LivingShape();
  if (tensor->shape == living) {
    parts_.push_back({tensor->dtype, tensor->data, living[0], living[1]});
    return;
  }
  const size_t head_bytes = tensor->bytes / static_cast<size_t>(matrix.heads);
  unused_in_part_.emplace(matrix.name, tensor->bytes - matrix.living.size() * head_bytes);
  for (const int32_t head : matrix.living) {
    const std::byte* rows = tensor->data + static_cast<size_t>(head) * head_bytes;
    parts_.push_back({tensor->dtype, rows, matrix.shape[0] / matrix.heads, matrix.shape[1]});
  }
}

std::unique_ptr<kernels::Matrix> Loader::Pack() {
  return PackWith([&] { return backend_->Pack(parts_, format_); });
}

std::unique_ptr<kernels::Matrix> Loader::PackGated() {
  return PackWith([&] { return backend_->PackGated(parts_[0], parts_[1], format_); });
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

LayerWeights LoadLayer(Loader& loader, const TensorList& tensors, int32_t layer) {
  const auto tensor = [&](TensorRole role) -> const TensorSpec& { return tensors.at(role, layer); };
  LayerWeights weights;
  weights.input_norm = loader.Norm(tensor(TensorRole::kAttentionNorm));
  loader.Append(tensor(TensorRole::kQuery));
  loader.Append(tensor(TensorRole::kKey));
  loader.Append(tensor(TensorRole::kValue));
  weights.qkv = loader.Pack();
  loader.MarkUsed(tensor(TensorRole::kValueMix));
  weights.output = loader.Matrix(tensor(TensorRole::kOutput));
  weights.post_attention_norm = loader.Norm(tensor(TensorRole::kFeedForwardNorm));
  loader.Append(tensor(TensorRole::kGate));
  loader.Append(tensor(TensorRole::kUp));
  weights.gate_up = loader.PackGated();
  weights.down = loader.Matrix(tensor(TensorRole::kDown));
  return weights;
}

}  // namespace

absl::StatusOr<Weights> LoadWeights(const ModelSpec& spec, const TensorList& tensors,
                                    const TensorSource& source, kernels::MatrixFormat format,
                                    kernels::Backend* backend) {
  Loader loader(source, format, backend);
  Weights weights;
  weights.embedding = loader.Matrix(tensors.at(TensorRole::kEmbedding));
  weights.head = loader.Matrix(tensors.at(TensorRole::kHead));
  for (int32_t layer = 0; layer < std::ssize(spec.layers) && loader.status().ok(); ++layer) {
    weights.layers.push_back(LoadLayer(loader, tensors, layer));
  }
  weights.final_norm = loader.Norm(tensors.at(TensorRole::kFinalNorm));
  if (!loader.status().ok()) return loader.status();
  loader.Finish(weights);
  return weights;
}

}  // namespace strata::engine
