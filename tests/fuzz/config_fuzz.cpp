#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/model/architectures.h"

namespace {

// Whether the model has the properties that every later stage relies on.
bool IsSane(const strata::engine::ModelSpec& model) {
  const auto shape = model.shape();
  return shape.num_layers > 0 && shape.num_kv_heads > 0 &&
         shape.num_query_heads % shape.num_kv_heads == 0 && shape.head_dim > 0 &&
         shape.head_dim % 2 == 0 && model.hidden_size > 0 && model.feed_forward().width > 0 &&
         model.vocab_size > 0 && model.max_positions > 0 && model.norm_epsilon > 0;
}

}  // namespace

// config.json, and the sharing plan it asks for.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto model = strata::engine::ParseModelSpec({reinterpret_cast<const char*>(data), size});
  if (!model.ok()) {
    if (model.status().message().find('\n') != absl::string_view::npos) std::abort();
    return 0;
  }
  if (!IsSane(*model)) std::abort();
  strata::engine::RopeTable(*model->attention().rope, model->shape().head_dim, /*begin=*/0,
                            /*end=*/2);
  if (model->plan && model->plan->shape() != model->shape()) std::abort();
  return 0;
}
