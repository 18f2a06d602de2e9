#include "engine/decode/decoder_builder.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "kernels/check.h"
#include "kernels/status_macros.h"

namespace strata::engine {

using kvcache::HeadRef;
using kvcache::HeadSources;

namespace {

int64_t IndexOf(const std::vector<int32_t>& heads, int32_t head) {
  const auto found = std::lower_bound(heads.begin(), heads.end(), head);
  STRATA_CHECK(found != heads.end() && *found == head, "the plan says that this head lives");
  return found - heads.begin();
}

}  // namespace

Decoder::Builder::Builder(const kvcache::SharingPlan& plan, const DecoderLayout& layout,
                          const kvcache::PlaneMap& planes, Decoder* decoder)
    : plan_(plan),
      layout_(layout),
      planes_(planes),
      decoder_(decoder),
      head_dim_(plan.shape().head_dim),
      keys_again_(ReadAgain(&HeadSources::keys)),
      values_again_(ReadAgain(&HeadSources::values)) {}

absl::Status Decoder::Builder::Build() {
  decoder_->layers_.resize(layout_.layers.size());
  RETURN_IF_ERROR(AllocateRows());
  RETURN_IF_ERROR(MakeRopeTable());
  for (size_t layer = 0; layer < layout_.layers.size(); ++layer) {
    PlaceProjections(layer);
    ResolveWays(layer);
    ResolveAttention(layer);
    ResolveCopies(layer);
    if (std::ranges::any_of(decoder_->layers_[layer].ways, &kernels::HeadWay::is_written)) {
      decoder_->last_writer_ = layer;
    }
  }
  ResolveKeptRows();
  return absl::OkStatus();
}

absl::StatusOr<float*> Decoder::Builder::Allocate(int64_t num_floats) {
  ASSIGN_OR_RETURN(auto buffer,
                   decoder_->backend_->Allocate(static_cast<size_t>(num_floats) * sizeof(float)));
  decoder_->buffers_.push_back(std::move(buffer));
  return decoder_->buffers_.back()->floats();
}

absl::Status Decoder::Builder::AllocateRows() {
  for (const int64_t num_cols : layout_.row_columns) {
    const int64_t stride = DecoderLayout::RowStride(num_cols);
    absl::StatusOr<float*> data = nullptr;
    if (num_cols > 0) data = Allocate(decoder_->max_rows_ * stride);
    if (!data.ok()) return data.status();
    rows_.push_back({*data, decoder_->max_rows_, num_cols, stride});
  }
  decoder_->residual_ = rows_[DecoderLayout::kResidual];
  decoder_->attended_ = rows_[DecoderLayout::kAttended];
  decoder_->activated_ = rows_[DecoderLayout::kActivated];
  decoder_->all_rows_.resize(static_cast<size_t>(decoder_->max_rows_));
  std::iota(decoder_->all_rows_.begin(), decoder_->all_rows_.end(), 0);
  return absl::OkStatus();
}

// Copies in pieces: a long table would take as much of the host's memory again.
absl::Status Decoder::Builder::MakeRopeTable() {
  constexpr int32_t kPiece = 4096;  // positions
  const ModelSpec& spec = decoder_->spec_;
  ASSIGN_OR_RETURN(const auto table, Allocate(layout_.rope_floats));
  decoder_->rope_table_ = table;
  for (int32_t begin = 0; begin < spec.max_positions; begin += kPiece) {
    const int32_t end = std::min(begin + kPiece, spec.max_positions);
    const std::vector<float> piece =
        RopeTable(*spec.attention().rope, spec.attention().rope->width, begin, end);
    decoder_->backend_->CopyFromHost(reinterpret_cast<std::byte*>(table + begin * head_dim_),
                                     std::as_bytes(std::span(piece)));
  }
  return absl::OkStatus();
}

void Decoder::Builder::PlaceProjections(size_t layer) {
  const DecoderLayout::Layer& place = layout_.layers[layer];
  const kernels::Rows& rows = rows_[place.projections];
  const auto queries = std::ssize(place.query_heads);
  const int64_t columns =
      (queries + std::ssize(place.key_heads) + std::ssize(place.value_heads)) * head_dim_;
  decoder_->layers_[layer].projected = rows.Columns(0, columns);
  log_sum_exp_.push_back(rows.Columns(columns, queries));
}

kernels::Rows Decoder::Builder::QueryColumns(HeadRef query_head) const {
  const auto layer = static_cast<size_t>(query_head.layer);
  const int64_t index = IndexOf(layout_.layers[layer].query_heads, query_head.head);
  return decoder_->layers_[layer].projected.Columns(index * head_dim_, head_dim_);
}

kernels::Rows Decoder::Builder::KeyColumns(HeadRef kv_head) const {
  const auto layer = static_cast<size_t>(kv_head.layer);
  const DecoderLayout::Layer& place = layout_.layers[layer];
  const int64_t index = std::ssize(place.query_heads) + IndexOf(place.key_heads, kv_head.head);
  return decoder_->layers_[layer].projected.Columns(index * head_dim_, head_dim_);
}

kernels::Rows Decoder::Builder::ValueColumns(HeadRef kv_head) const {
  const auto layer = static_cast<size_t>(kv_head.layer);
  const DecoderLayout::Layer& place = layout_.layers[layer];
  const int64_t index = std::ssize(place.query_heads) + std::ssize(place.key_heads) +
                        IndexOf(place.value_heads, kv_head.head);
  return decoder_->layers_[layer].projected.Columns(index * head_dim_, head_dim_);
}

float* Decoder::Builder::LogSumExp(HeadRef query_head) const {
  const auto layer = static_cast<size_t>(query_head.layer);
  return log_sum_exp_[layer].data + IndexOf(layout_.layers[layer].query_heads, query_head.head);
}

kernels::Rows Decoder::Builder::OutputColumns(int32_t head) const {
  return decoder_->attended_.Columns(head * head_dim_, head_dim_);
}

// Every living head that has a way: queries turn, keys turn and are written, values are mixed,
// written, or both.
void Decoder::Builder::ResolveWays(size_t layer) {
  const DecoderLayout::Layer& place = layout_.layers[layer];
  const auto index = static_cast<int32_t>(layer);
  const RopeSpec& rope = *decoder_->spec_.layers[layer].attention.rope;
  std::vector<kernels::HeadWay>& ways = decoder_->layers_[layer].ways;
  const auto add = [&](const kernels::Rows& columns) -> kernels::HeadWay& {
    return ways.emplace_back(kernels::HeadWay{.data = columns.data,
                                              .stride = columns.stride,
                                              .head_dim = static_cast<int32_t>(head_dim_)});
  };
  const auto rotate = [&](kernels::HeadWay& way) {
    way.rotated = rope.width;
    way.rope_table = decoder_->rope_table_;
  };
  for (const int32_t head : place.query_heads) rotate(add(QueryColumns({index, head})));
  for (const int32_t head : place.key_heads) {
    kernels::HeadWay& way = add(KeyColumns({index, head}));
    rotate(way);
    way.is_written = true;
    way.plane = planes_.KeyPlane({index, head});
  }
  const std::vector<int32_t> written = plan_.ValuePlaneHeads(index);
  for (const int32_t head : place.value_heads) {
    kernels::HeadWay& way = add(ValueColumns({index, head}));
    way.kind = kernels::PlaneKind::kValue;
    if (const auto& mix = plan_.mix(index, head)) {
      const kernels::Rows first_values = ValueColumns({0, head});
      way.first_values = first_values.data;
      way.first_stride = first_values.stride;
      way.own = mix->own;
      way.first = mix->first;
    }
    way.is_written = std::ranges::binary_search(written, head);
    if (way.is_written) way.plane = planes_.ValuePlane({index, head});
  }
}

// The group of the heads in `groups` that read such planes; made if there is none yet.
kernels::PlaneGroup& Decoder::Builder::GroupOf(const HeadSources& sources,
                                               std::vector<kernels::PlaneGroup>& groups) const {
  const kernels::PlaneRef keys = planes_.KeyPlane(sources.keys);
  const kernels::PlaneRef values = planes_.ValuePlane(sources.values);
  const auto group = std::ranges::find_if(groups, [&](const kernels::PlaneGroup& known) {
    return known.keys == keys && known.values == values;
  });
  if (group != groups.end()) return *group;
  return groups.emplace_back(
      kernels::PlaneGroup{.keys = keys,
                          .values = values,
                          .head_dim = static_cast<int32_t>(head_dim_),
                          .keys_again = keys_again_.contains(sources.keys),
                          .values_again = values_again_.contains(sources.values)});
}

void Decoder::Builder::ResolveAttention(size_t layer) {
  const DecoderLayout::Layer& place = layout_.layers[layer];
  Layer& resolved = decoder_->layers_[layer];
  for (size_t head = 0; head < place.work.size(); ++head) {
    if (!place.Attends(head)) continue;
    const auto number = static_cast<int32_t>(head);
    const HeadSources& sources = plan_.sources(static_cast<int32_t>(layer), number);
    const HeadRef owner = sources.scores;
    const kernels::Rows query = QueryColumns(owner);
    const kernels::Rows output = OutputColumns(number);
    const bool owns = place.work[head] == HeadWork::kOwn;
    std::vector<kernels::PlaneGroup>& groups = owns ? resolved.owners : resolved.reusers;
    kernels::PlaneGroup& group = GroupOf(sources, groups);
    if (owns) {
      resolved.places_of_owners[number] = {.group = static_cast<size_t>(&group - groups.data()),
                                           .index = group.heads.size()};
    }
    group.heads.push_back({.query = query.data,
                           .query_stride = query.stride,
                           .reused_lse = owns ? nullptr : LogSumExp(owner),
                           .lse = owns ? LogSumExp(owner) : nullptr,
                           .lse_stride = log_sum_exp_[static_cast<size_t>(owner.layer)].stride,
                           .score_slot = plan_.ScoreSlot(owner.layer, owner.head),
                           .output = output.data,
                           .output_stride = output.stride});
  }
}

std::set<HeadRef> Decoder::Builder::ReadAgain(HeadRef HeadSources::*kind) const {
  std::map<HeadRef, size_t> first_layer;  // the first layer that reads the plane
  std::set<HeadRef> again;
  for (size_t layer = 0; layer < layout_.layers.size(); ++layer) {
    const DecoderLayout::Layer& place = layout_.layers[layer];
    for (size_t head = 0; head < place.work.size(); ++head) {
      if (!place.Attends(head)) continue;
      const HeadRef plane =
          plan_.sources(static_cast<int32_t>(layer), static_cast<int32_t>(head)).*kind;
      if (first_layer.try_emplace(plane, layer).first->second != layer) again.insert(plane);
    }
  }
  return again;
}

void Decoder::Builder::ResolveCopies(size_t layer) {
  const auto kept = [&](HeadRef owner) {
    return rows_[DecoderLayout::kKept].Columns(layout_.kept_slots.at(owner) * head_dim_, head_dim_);
  };
  const auto this_layer = static_cast<int32_t>(layer);
  std::vector<Copy>& copies = decoder_->layers_[layer].copies;
  for (int32_t head = 0; head < plan_.shape().num_query_heads; ++head) {
    if (layout_.layers[layer].work[static_cast<size_t>(head)] != HeadWork::kCopy) continue;
    const HeadRef owner = plan_.OutputOwner(this_layer, head);
    const kernels::Rows from = owner.layer == this_layer ? OutputColumns(owner.head) : kept(owner);
    copies.push_back({.from = from, .to = OutputColumns(head)});
  }
  for (auto slot = layout_.kept_slots.lower_bound({this_layer, 0});
       slot != layout_.kept_slots.end() && slot->first.layer == this_layer; ++slot) {
    copies.push_back({.from = OutputColumns(slot->first.head), .to = kept(slot->first)});
  }
}

// Collects the row buffers that are read after the last layer has written to the cache.
void Decoder::Builder::ResolveKeptRows() {
  std::vector<kernels::Rows>& rows = decoder_->kept_rows_;
  rows = {decoder_->residual_, decoder_->attended_};
  if (!layout_.kept_slots.empty()) rows.push_back(rows_[DecoderLayout::kKept]);
  for (size_t layer = 0; layer <= decoder_->last_writer_; ++layer) {
    const DecoderLayout::Layer& place = layout_.layers[layer];
    if (place.last_use >= decoder_->last_writer_) rows.push_back(rows_[place.projections]);
  }
}

}  // namespace strata::engine
