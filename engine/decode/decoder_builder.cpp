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
    ResolveMixes(layer);
    ResolveWrites(layer);
    ResolveAttention(layer);
    ResolveCopies(layer);
    if (!decoder_->layers_[layer].writes.empty()) decoder_->last_writer_ = layer;
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
  const int64_t rotated = (queries + std::ssize(place.key_heads)) * head_dim_;
  const int64_t columns = rotated + std::ssize(place.value_heads) * head_dim_;
  decoder_->layers_[layer].projected = rows.Columns(0, columns);
  decoder_->layers_[layer].rotated_columns = rotated;
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

void Decoder::Builder::ResolveMixes(size_t layer) {
  std::vector<kernels::ValueMix>& mixes = decoder_->layers_[layer].mixes;
  for (const int32_t kv_head : layout_.layers[layer].value_heads) {
    const auto& mix = plan_.mix(static_cast<int32_t>(layer), kv_head);
    if (!mix) continue;
    const kernels::ValueMix next = {.values = ValueColumns({static_cast<int32_t>(layer), kv_head}),
                                    .first_values = ValueColumns({0, kv_head}),
                                    .own = mix->own,
                                    .first = mix->first};
    if (!mixes.empty()) {
      kernels::ValueMix& last = mixes.back();
      const bool adjoins =
          last.values.data + last.values.num_cols == next.values.data &&
          last.first_values.data + last.first_values.num_cols == next.first_values.data;
      if (adjoins && last.own == next.own && last.first == next.first) {
        last.values.num_cols += next.values.num_cols;
        last.first_values.num_cols += next.first_values.num_cols;
        continue;
      }
    }
    mixes.push_back(next);
  }
}

void Decoder::Builder::ResolveWrites(size_t layer) {
  const auto add = [&](kernels::PlaneKind kind, size_t offset, const kernels::Rows& source) {
    decoder_->layers_[layer].writes.push_back({.kind = kind,
                                               .plane_offset = offset,
                                               .source = source.data,
                                               .source_stride = source.stride});
  };
  const auto index = static_cast<int32_t>(layer);
  for (const int32_t head : layout_.layers[layer].key_heads) {
    add(kernels::PlaneKind::kKey, planes_.KeyOffset({index, head}), KeyColumns({index, head}));
  }
  for (const int32_t head : plan_.ValuePlaneHeads(index)) {
    add(kernels::PlaneKind::kValue, planes_.ValueOffset({index, head}),
        ValueColumns({index, head}));
  }
}

void Decoder::Builder::ResolveAttention(size_t layer) {
  const DecoderLayout::Layer& place = layout_.layers[layer];
  for (size_t head = 0; head < place.work.size(); ++head) {
    if (!place.Attends(head)) continue;
    const HeadSources& sources =
        plan_.sources(static_cast<int32_t>(layer), static_cast<int32_t>(head));
    const HeadRef owner = sources.scores;
    const kernels::Rows query = QueryColumns(owner);
    const kernels::Rows output = OutputColumns(static_cast<int32_t>(head));
    kernels::HeadAttention attention = {
        .query = query.data,
        .query_stride = query.stride,
        .key_offset = planes_.KeyOffset(sources.keys),
        .value_offset = planes_.ValueOffset(sources.values),
        .lse_stride = log_sum_exp_[static_cast<size_t>(owner.layer)].stride,
        .score_slot = plan_.ScoreSlot(owner.layer, owner.head),
        .keys_again = keys_again_.contains(sources.keys),
        .values_again = values_again_.contains(sources.values),
        .output = output.data,
        .output_stride = output.stride};
    if (place.work[head] == HeadWork::kOwn) {
      attention.lse = LogSumExp(owner);
      decoder_->layers_[layer].owners.push_back(attention);
      decoder_->layers_[layer].owner_heads.push_back(static_cast<int32_t>(head));
    } else {
      attention.reused_lse = LogSumExp(owner);
      decoder_->layers_[layer].reusers.push_back(attention);
    }
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
