#include "engine/decode/decoder_layout.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "kvcache/plan/slot_lives.h"

namespace strata::engine {

using kvcache::HeadRef;
using kvcache::HeadSources;

namespace {

void ChooseWork(const kvcache::SharingPlan& plan, DecoderLayout& layout) {
  // Sources of the output in each column of the attention output while the layers run.
  std::vector<std::optional<HeadSources>> held(static_cast<size_t>(plan.shape().num_query_heads));
  for (int32_t layer = 0; layer < plan.shape().num_layers; ++layer) {
    for (size_t head = 0; head < held.size(); ++head) {
      const auto number = static_cast<int32_t>(head);
      const HeadSources& sources = plan.sources(layer, number);
      HeadWork work = HeadWork::kOwn;
      switch (plan.Run(layer, number)) {
        case kvcache::HeadRun::kComputeScores:
          break;
        case kvcache::HeadRun::kReuseScores:
          work = HeadWork::kReuse;
          break;
        case kvcache::HeadRun::kReuseOutput:
          work = held[head] == sources ? HeadWork::kInPlace : HeadWork::kCopy;
          break;
      }
      layout.layers[static_cast<size_t>(layer)].work.push_back(work);
      held[head] = sources;
    }
  }
}

// Assigns slots to kept outputs. Returns the number of slots.
int32_t ChooseKeptOutputs(const kvcache::SharingPlan& plan, DecoderLayout& layout) {
  std::map<HeadRef, int32_t> last_taker;
  for (int32_t layer = 0; layer < plan.shape().num_layers; ++layer) {
    const std::vector<HeadWork>& work = layout.layers[static_cast<size_t>(layer)].work;
    for (int32_t head = 0; head < plan.shape().num_query_heads; ++head) {
      if (work[static_cast<size_t>(head)] != HeadWork::kCopy) continue;
      const HeadRef owner = plan.OutputOwner(layer, head);
      if (owner.layer != layer) last_taker[owner] = layer;
    }
  }
  int32_t num_slots = 0;
  std::tie(layout.kept_slots, num_slots) = kvcache::AssignSlots(last_taker);
  return num_slots;
}

// Assigns a buffer to each layer's projections. A buffer is busy until the last layer that reads
// the projections has run, and then goes to a later layer. Most plans need one buffer, routing
// plans two.
void ChooseProjections(const kvcache::SharingPlan& plan, DecoderLayout& layout) {
  for (int32_t layer = 0; layer < plan.shape().num_layers; ++layer) {
    layout.layers[static_cast<size_t>(layer)].last_use =
        static_cast<size_t>(plan.LastReaderOfScores(layer));
    for (int32_t head = 0; head < plan.shape().num_kv_heads; ++head) {
      size_t& last_use = layout.layers[0].last_use;  // of layer 0's values, which mixes read
      if (plan.mix(layer, head)) last_use = std::max(last_use, static_cast<size_t>(layer));
    }
  }
  int64_t widest = 0;
  for (const DecoderLayout::Layer& layer : layout.layers) {
    const int64_t heads =
        std::ssize(layer.query_heads) + std::ssize(layer.key_heads) + std::ssize(layer.value_heads);
    widest = std::max(widest, heads * plan.shape().head_dim + std::ssize(layer.query_heads));
  }
  std::vector<size_t> last_uses;  // [buffer]
  for (size_t index = 0; index < layout.layers.size(); ++index) {
    DecoderLayout::Layer& layer = layout.layers[index];
    auto place = std::find_if(last_uses.begin(), last_uses.end(),
                              [&](size_t last_use) { return last_use < index; });
    if (place == last_uses.end()) {
      place = last_uses.insert(last_uses.end(), 0);
      layout.row_columns.push_back(widest);
    }
    *place = layer.last_use;
    layer.projections =
        DecoderLayout::kFirstProjections + static_cast<size_t>(place - last_uses.begin());
  }
}

}  // namespace

DecoderLayout LayoutOf(const ModelSpec& spec, const kvcache::SharingPlan& plan) {
  const kvcache::AttentionShape& shape = plan.shape();
  DecoderLayout layout;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    layout.layers.push_back({.query_heads = plan.QueryHeads(layer),
                             .key_heads = plan.KeyHeads(layer),
                             .value_heads = plan.ValueHeads(layer),
                             .work = {}});
  }
  ChooseWork(plan, layout);
  const int64_t num_kept = ChooseKeptOutputs(plan, layout);
  layout.row_columns.resize(DecoderLayout::kFirstProjections);
  layout.row_columns[DecoderLayout::kResidual] = spec.hidden_size;
  layout.row_columns[DecoderLayout::kAttended] = int64_t{shape.num_query_heads} * shape.head_dim;
  layout.row_columns[DecoderLayout::kActivated] = spec.feed_forward().width;
  layout.row_columns[DecoderLayout::kKept] = num_kept * shape.head_dim;
  ChooseProjections(plan, layout);
  layout.rope_floats = int64_t{spec.max_positions} * spec.attention().rope->width;
  return layout;
}

size_t DecoderLayout::Bytes(int64_t rows) const {
  int64_t floats = rope_floats;
  for (const int64_t num_cols : row_columns) floats += rows * RowStride(num_cols);
  return static_cast<size_t>(floats) * sizeof(float);
}

}  // namespace strata::engine
