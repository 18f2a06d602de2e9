#include "engine/decoder_builder.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "kernels/check.h"
#include "kvcache/slot_lives.h"

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

Decoder::Builder::Builder(const kvcache::SharingPlan& plan, const kvcache::PlaneMap& planes,
                          Decoder* decoder)
    : plan_(plan),
      planes_(planes),
      decoder_(decoder),
      head_dim_(plan.shape().head_dim),
      num_layers_(static_cast<size_t>(plan.shape().num_layers)) {
  for (int32_t layer = 0; layer < plan.shape().num_layers; ++layer) {
    query_heads_.push_back(plan.QueryHeads(layer));
    key_heads_.push_back(plan.KeyHeads(layer));
    value_heads_.push_back(plan.ValueHeads(layer));
  }
}

absl::Status Decoder::Builder::Build() {
  ChooseWork();
  ChooseKeptOutputs();
  ChooseLifetimes();
  keys_again_ = ReadAgain(&HeadSources::keys);
  values_again_ = ReadAgain(&HeadSources::values);
  decoder_->layers_.resize(num_layers_);
  if (absl::Status status = AllocateScratch(); !status.ok()) return status;
  if (absl::Status status = MakeRopeTable(); !status.ok()) return status;
  if (absl::Status status = AllocateProjections(); !status.ok()) return status;
  for (size_t layer = 0; layer < num_layers_; ++layer) {
    ResolveMixes(layer);
    ResolveWrites(layer);
    ResolveAttention(layer);
    ResolveCopies(layer);
    if (!decoder_->layers_[layer].writes.empty()) decoder_->last_writer_ = layer;
  }
  ResolveKeptRows();
  return absl::OkStatus();
}

void Decoder::Builder::ChooseWork() {
  const int32_t num_heads = plan_.shape().num_query_heads;
  // What each column of the attention output holds while the layers run.
  std::vector<std::optional<HeadSources>> held(static_cast<size_t>(num_heads));
  work_.assign(num_layers_, std::vector<HeadWork>(held.size()));
  for (size_t layer = 0; layer < num_layers_; ++layer) {
    for (size_t head = 0; head < held.size(); ++head) {
      const HeadRef self = {static_cast<int32_t>(layer), static_cast<int32_t>(head)};
      const HeadSources& sources = plan_.sources(self.layer, self.head);
      switch (plan_.Run(self.layer, self.head)) {
        case kvcache::HeadRun::kComputeScores:
          work_[layer][head] = HeadWork::kOwn;
          break;
        case kvcache::HeadRun::kReuseScores:
          work_[layer][head] = HeadWork::kReuse;
          break;
        case kvcache::HeadRun::kReuseOutput:
          work_[layer][head] = held[head] == sources ? HeadWork::kInPlace : HeadWork::kCopy;
          break;
      }
      held[head] = sources;
    }
  }
}

void Decoder::Builder::ChooseKeptOutputs() {
  std::map<HeadRef, int32_t> last_taker;
  for (int32_t layer = 0; layer < plan_.shape().num_layers; ++layer) {
    for (int32_t head = 0; head < plan_.shape().num_query_heads; ++head) {
      if (work_[static_cast<size_t>(layer)][static_cast<size_t>(head)] != HeadWork::kCopy) continue;
      const HeadRef owner = plan_.OutputOwner(layer, head);
      if (owner.layer != layer) last_taker[owner] = layer;
    }
  }
  std::tie(kept_slots_, num_kept_slots_) = kvcache::AssignSlots(last_taker);
}

void Decoder::Builder::ChooseLifetimes() {
  for (size_t layer = 0; layer < num_layers_; ++layer) last_use_.push_back(layer);
  for (size_t layer = 0; layer < num_layers_; ++layer) {
    for (size_t head = 0; head < work_[layer].size(); ++head) {
      if (work_[layer][head] != HeadWork::kReuse) continue;
      const HeadRef owner =
          plan_.sources(static_cast<int32_t>(layer), static_cast<int32_t>(head)).scores;
      last_use_[static_cast<size_t>(owner.layer)] = layer;
    }
    for (const int32_t kv_head : value_heads_[layer]) {
      if (plan_.mix(static_cast<int32_t>(layer), kv_head)) last_use_[0] = layer;
    }
  }
}

absl::StatusOr<float*> Decoder::Builder::Allocate(int64_t num_floats) {
  auto buffer = decoder_->backend_->Allocate(static_cast<size_t>(num_floats) * sizeof(float));
  if (!buffer.ok()) return buffer.status();
  decoder_->buffers_.push_back(*std::move(buffer));
  return decoder_->buffers_.back()->floats();
}

absl::StatusOr<kernels::Rows> Decoder::Builder::AllocateRows(int64_t num_cols) {
  const int64_t stride = (num_cols + 15) / 16 * 16;  // rows start on a cache line
  auto data = Allocate(decoder_->max_rows_ * stride);
  if (!data.ok()) return data.status();
  return kernels::Rows{*data, decoder_->max_rows_, num_cols, stride};
}

absl::Status Decoder::Builder::AllocateScratch() {
  const ModelConfig& config = decoder_->config_;
  const std::pair<kernels::Rows*, int64_t> scratch[] = {
      {&decoder_->residual_, config.hidden_size},
      {&decoder_->attended_, config.attention.num_query_heads * head_dim_},
      {&decoder_->activated_, config.intermediate_size},
      {&kept_, num_kept_slots_ * head_dim_},
  };
  for (const auto& [rows, num_cols] : scratch) {
    if (num_cols == 0) continue;
    auto allocated = AllocateRows(num_cols);
    if (!allocated.ok()) return allocated.status();
    *rows = *allocated;
  }
  decoder_->all_rows_.resize(static_cast<size_t>(decoder_->max_rows_));
  std::iota(decoder_->all_rows_.begin(), decoder_->all_rows_.end(), 0);
  return absl::OkStatus();
}

// In pieces: a long table would take as much of the host's memory again.
absl::Status Decoder::Builder::MakeRopeTable() {
  constexpr int32_t kPiece = 4096;  // positions
  const ModelConfig& config = decoder_->config_;
  const auto table = Allocate(config.max_positions * head_dim_);
  if (!table.ok()) return table.status();
  decoder_->rope_table_ = *table;
  for (int32_t begin = 0; begin < config.max_positions; begin += kPiece) {
    const int32_t end = std::min(begin + kPiece, config.max_positions);
    const std::vector<float> piece = RopeTable(config.rope, config.attention.head_dim, begin, end);
    decoder_->backend_->CopyFromHost(reinterpret_cast<std::byte*>(*table + begin * head_dim_),
                                     std::as_bytes(std::span(piece)));
  }
  return absl::OkStatus();
}

// A layer's projections stand in a buffer until the last layer that reads them has run; then the
// buffer goes to a later layer. Most plans need one buffer, routing plans two.
absl::Status Decoder::Builder::AllocateProjections() {
  int64_t widest = 0;
  for (size_t layer = 0; layer < num_layers_; ++layer) {
    const size_t heads =
        query_heads_[layer].size() + key_heads_[layer].size() + value_heads_[layer].size();
    widest = std::max(widest, static_cast<int64_t>(heads) * head_dim_ +
                                  static_cast<int64_t>(query_heads_[layer].size()));
  }
  struct Kept {
    kernels::Rows rows;
    size_t last_use;
  };
  std::vector<Kept> kept;
  for (size_t layer = 0; layer < num_layers_; ++layer) {
    auto place = std::find_if(kept.begin(), kept.end(),
                              [&](const Kept& buffer) { return buffer.last_use < layer; });
    if (place == kept.end()) {
      auto rows = AllocateRows(widest);
      if (!rows.ok()) return rows.status();
      place = kept.insert(kept.end(), {*rows, 0});
    }
    place->last_use = last_use_[layer];
    buffers_.push_back(place->rows);
    const auto queries = static_cast<int64_t>(query_heads_[layer].size());
    const auto keys = static_cast<int64_t>(key_heads_[layer].size());
    const auto values = static_cast<int64_t>(value_heads_[layer].size());
    const int64_t columns = (queries + keys + values) * head_dim_;
    decoder_->layers_[layer].projected = place->rows.Columns(0, columns);
    decoder_->layers_[layer].rotated_columns = (queries + keys) * head_dim_;
    log_sum_exp_.push_back(place->rows.Columns(columns, queries));
  }
  return absl::OkStatus();
}

kernels::Rows Decoder::Builder::QueryColumns(HeadRef query_head) const {
  const auto layer = static_cast<size_t>(query_head.layer);
  const int64_t index = IndexOf(query_heads_[layer], query_head.head);
  return decoder_->layers_[layer].projected.Columns(index * head_dim_, head_dim_);
}

kernels::Rows Decoder::Builder::KeyColumns(HeadRef kv_head) const {
  const auto layer = static_cast<size_t>(kv_head.layer);
  const int64_t index = std::ssize(query_heads_[layer]) + IndexOf(key_heads_[layer], kv_head.head);
  return decoder_->layers_[layer].projected.Columns(index * head_dim_, head_dim_);
}

kernels::Rows Decoder::Builder::ValueColumns(HeadRef kv_head) const {
  const auto layer = static_cast<size_t>(kv_head.layer);
  const int64_t index = std::ssize(query_heads_[layer]) + std::ssize(key_heads_[layer]) +
                        IndexOf(value_heads_[layer], kv_head.head);
  return decoder_->layers_[layer].projected.Columns(index * head_dim_, head_dim_);
}

float* Decoder::Builder::LogSumExp(HeadRef query_head) const {
  const auto layer = static_cast<size_t>(query_head.layer);
  return log_sum_exp_[layer].data + IndexOf(query_heads_[layer], query_head.head);
}

kernels::Rows Decoder::Builder::OutputColumns(int32_t head) const {
  return decoder_->attended_.Columns(head * head_dim_, head_dim_);
}

void Decoder::Builder::ResolveMixes(size_t layer) {
  std::vector<kernels::ValueMix>& mixes = decoder_->layers_[layer].mixes;
  for (const int32_t kv_head : value_heads_[layer]) {
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
  for (const int32_t head : key_heads_[layer]) {
    add(kernels::PlaneKind::kKey, planes_.KeyOffset({index, head}), KeyColumns({index, head}));
  }
  for (const int32_t head : plan_.ValuePlaneHeads(index)) {
    add(kernels::PlaneKind::kValue, planes_.ValueOffset({index, head}),
        ValueColumns({index, head}));
  }
}

void Decoder::Builder::ResolveAttention(size_t layer) {
  for (size_t head = 0; head < work_[layer].size(); ++head) {
    if (!Attends(layer, head)) continue;
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
    if (work_[layer][head] == HeadWork::kOwn) {
      attention.lse = LogSumExp(owner);
      decoder_->layers_[layer].owners.push_back(attention);
      decoder_->layers_[layer].owner_heads.push_back(static_cast<int32_t>(head));
    } else {
      attention.reused_lse = LogSumExp(owner);
      decoder_->layers_[layer].reusers.push_back(attention);
    }
  }
}

bool Decoder::Builder::Attends(size_t layer, size_t head) const {
  const HeadWork work = work_[layer][head];
  return work == HeadWork::kOwn || work == HeadWork::kReuse;
}

std::set<HeadRef> Decoder::Builder::ReadAgain(HeadRef HeadSources::*kind) const {
  std::map<HeadRef, size_t> first_layer;  // that reads the plane
  std::set<HeadRef> again;
  for (size_t layer = 0; layer < num_layers_; ++layer) {
    for (size_t head = 0; head < work_[layer].size(); ++head) {
      if (!Attends(layer, head)) continue;
      const HeadRef plane =
          plan_.sources(static_cast<int32_t>(layer), static_cast<int32_t>(head)).*kind;
      if (first_layer.try_emplace(plane, layer).first->second != layer) again.insert(plane);
    }
  }
  return again;
}

void Decoder::Builder::ResolveCopies(size_t layer) {
  const auto kept = [&](HeadRef owner) {
    return kept_.Columns(kept_slots_.at(owner) * head_dim_, head_dim_);
  };
  const auto this_layer = static_cast<int32_t>(layer);
  std::vector<Copy>& copies = decoder_->layers_[layer].copies;
  for (int32_t head = 0; head < plan_.shape().num_query_heads; ++head) {
    if (work_[layer][static_cast<size_t>(head)] != HeadWork::kCopy) continue;
    const HeadRef owner = plan_.OutputOwner(this_layer, head);
    const kernels::Rows from = owner.layer == this_layer ? OutputColumns(owner.head) : kept(owner);
    copies.push_back({.from = from, .to = OutputColumns(head)});
  }
  for (auto slot = kept_slots_.lower_bound({this_layer, 0});
       slot != kept_slots_.end() && slot->first.layer == this_layer; ++slot) {
    copies.push_back({.from = OutputColumns(slot->first.head), .to = kept(slot->first)});
  }
}

// The row buffers that are read after the last layer has written to the cache.
void Decoder::Builder::ResolveKeptRows() {
  std::vector<kernels::Rows>& rows = decoder_->kept_rows_;
  rows = {decoder_->residual_, decoder_->attended_};
  if (num_kept_slots_ > 0) rows.push_back(kept_);
  for (size_t layer = 0; layer <= decoder_->last_writer_; ++layer) {
    if (last_use_[layer] >= decoder_->last_writer_) rows.push_back(buffers_[layer]);
  }
}

}  // namespace strata::engine
