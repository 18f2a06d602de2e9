#include "engine/model/tensors_of.h"

#include <algorithm>
#include <set>
#include <utility>

#include "engine/base/json_file.h"
#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

constexpr auto kFirstOfLayer = static_cast<size_t>(TensorRole::kAttentionNorm);
constexpr size_t kRolesOfLayer = kNumTensorRoles - kFirstOfLayer;

// Tables of angles that old versions of transformers and ColossalAI stored, in each layer's
// attention or once in the model.
constexpr std::string_view kDeadTensors[] = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
                                             ".rotary_emb.sin_cached"};

// Hugging Face's names by role; # stands for a layer's number.
std::string NameOf(const TensorNames& names, TensorRole role, int32_t layer) {
  std::string name(names[static_cast<size_t>(role)]);
  const size_t number = name.find('#');
  if (number != std::string::npos) name.replace(number, 1, std::to_string(layer));
  return name;
}

class Lister {
 public:
  Lister(const ModelSpec& spec, const kvcache::SharingPlan& plan) : spec_(spec), plan_(plan) {}

  TensorList List() {
    const int64_t hidden = spec_.hidden_size;
    const std::vector<int64_t> table = {spec_.vocab_size, hidden};
    TensorSpec& embedding = Add(TensorRole::kEmbedding, 0, table);
    // A tied model stores either of the two.
    if (spec_.tied_embeddings) embedding.or_name = NameOf(spec_.tensor_names, TensorRole::kHead, 0);
    Add(TensorRole::kHead, 0, table).needed = !spec_.tied_embeddings;
    Add(TensorRole::kFinalNorm, 0, {hidden});
    for (int32_t layer = 0; layer < std::ssize(spec_.layers); ++layer) AddLayer(layer);
    return TensorList(std::move(tensors_));
  }

 private:
  void AddLayer(int32_t layer) {
    const LayerSpec& spec = spec_.layers[static_cast<size_t>(layer)];
    const int64_t hidden = spec_.hidden_size;
    const int64_t width = spec.feed_forward.width;
    const AttentionSpec& attention = spec.attention;
    Add(TensorRole::kAttentionNorm, layer, {hidden});
    AddHeads(TensorRole::kQuery, layer, plan_.QueryHeads(layer), attention.num_query_heads);
    AddHeads(TensorRole::kKey, layer, plan_.KeyHeads(layer), attention.num_kv_heads);
    AddHeads(TensorRole::kValue, layer, plan_.ValueHeads(layer), attention.num_kv_heads);
    Add(TensorRole::kValueMix, layer, {2}).needed = plan_.learnable_mix(layer);
    Add(TensorRole::kOutput, layer,
        {hidden, int64_t{attention.num_query_heads} * attention.head_dim});
    Add(TensorRole::kFeedForwardNorm, layer, {hidden});
    Add(TensorRole::kGate, layer, {width, hidden});
    Add(TensorRole::kUp, layer, {width, hidden});
    Add(TensorRole::kDown, layer, {hidden, width});
  }

  TensorSpec& Add(TensorRole role, int32_t layer, std::vector<int64_t> shape) {
    return tensors_.emplace_back(TensorSpec{.role = role,
                                            .layer = layer,
                                            .name = NameOf(spec_.tensor_names, role, layer),
                                            .shape = std::move(shape)});
  }

  void AddHeads(TensorRole role, int32_t layer, std::vector<int32_t> living, int32_t heads) {
    const int64_t head_dim = spec_.layers[static_cast<size_t>(layer)].attention.head_dim;
    TensorSpec& tensor = Add(role, layer, {heads * head_dim, spec_.hidden_size});
    tensor.needed = !living.empty();
    tensor.living = std::move(living);
    tensor.heads = heads;
  }

  const ModelSpec& spec_;
  const kvcache::SharingPlan& plan_;
  std::vector<TensorSpec> tensors_;
};

}  // namespace

std::vector<int64_t> TensorSpec::LivingShape() const {
  std::vector<int64_t> trimmed = shape;
  if (heads > 0) trimmed[0] = trimmed[0] / heads * std::ssize(living);
  return trimmed;
}

const TensorSpec& TensorList::at(TensorRole role, int32_t layer) const {
  const auto place = static_cast<size_t>(role);
  return tensors_[place < kFirstOfLayer ? place
                                        : place + static_cast<size_t>(layer) * kRolesOfLayer];
}

TensorList TensorsOf(const ModelSpec& spec, const kvcache::SharingPlan& plan) {
  return Lister(spec, plan).List();
}

absl::Status CheckTensorNames(std::string_view where, const TensorSource& source,
                              const ModelSpec& spec) {
  std::set<std::string, std::less<>> known;
  for (const TensorSpec& tensor : TensorsOf(spec, kvcache::SharingPlan::Plain(spec.shape()))) {
    known.insert(tensor.name);
  }
  std::string first;
  int64_t others = -1;
  for (const std::string& name : source.Names()) {
    const auto is_end = [&name](std::string_view end) { return name.ends_with(end); };
    if (known.contains(name) || std::ranges::any_of(kDeadTensors, is_end)) continue;
    if (others++ < 0) first = Printable(name);
  }
  if (first.empty()) return absl::OkStatus();
  const std::string more = others == 0 ? "" : Concat(" (and ", others, " more)");
  return InvalidArgument(where, ": tensor ", first, more, " has no place in ", spec.architecture,
                         " of ", spec.layers.size(),
                         " layers; without it the answers would be wrong");
}

}  // namespace strata::engine
