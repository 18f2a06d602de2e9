#include "tests/support/hash_backend.h"

#include <algorithm>
#include <string>
#include <utility>

#include "tests/support/null_backend.h"

namespace strata::testing {
namespace {

using kernels::ConstRows;
using kernels::Rows;

constexpr uint32_t kSeed = 0x5EED;
constexpr float kFeedForward = -1;  // marks feed-forward rows, which the residual does not add

uint32_t Fold(uint32_t hash, uint32_t token) {
  hash ^= token + 0x9E3779B9U + (hash << 6) + (hash >> 2);
  hash *= 0x85EBCA6BU;
  return hash ^ (hash >> 13);
}

// Exact as a float.
float Digest(uint32_t hash) { return static_cast<float>(hash & 0xFFFFFFU); }

int32_t TokenOf(float digest, int64_t vocab_size) {
  return static_cast<int32_t>(Fold(7, static_cast<uint32_t>(digest)) %
                              static_cast<uint32_t>(vocab_size));
}

// Column 0 carries the data: a token id from Embed to the cache, then a digest.
class HashBackend final : public NullBackend {
 public:
  HashBackend(std::function<bool()> fail, bool asynchronous)
      : fail_(std::move(fail)), asynchronous_(asynchronous) {}

  std::string Describe() const override { return "hash"; }
  absl::Status Synchronize() override {
    return fail_ && fail_() ? absl::InternalError("the device failed") : absl::OkStatus();
  }
  void Embed(const kernels::Matrix& table, std::span<const int32_t> ids, Rows out) override {
    vocab_size_ = table.num_outputs();
    for (size_t i = 0; i < ids.size(); ++i) {
      const int32_t id = ids[i] >= 0 ? ids[i] : LastToken(~ids[i]);
      *Row(out, i) = static_cast<float>(id);
    }
  }
  void MatMul(const kernels::Matrix& w, ConstRows x, const kernels::RmsNorm&, Rows out,
              Store store) override {
    for (int64_t i = 0; i < x.num_rows; ++i) {
      const float value = x.data[i * x.stride];
      float* row = out.data + i * out.stride;
      if (store == Store::kAdd) {
        if (value != kFeedForward) *row = value;
      } else if (w.num_outputs() == vocab_size_) {
        std::fill_n(row, vocab_size_, 0.0F);
        row[TokenOf(value, vocab_size_)] = 1.0F;
      } else {
        std::fill_n(row, w.num_outputs(), value);
      }
    }
  }
  void GatedMatMul(const kernels::Matrix&, ConstRows, const kernels::RmsNorm&, Rows out) override {
    for (int64_t i = 0; i < out.num_rows; ++i) out.data[i * out.stride] = kFeedForward;
  }
  void GatherRows(ConstRows x, std::span<const int32_t> rows, Rows out) override {
    for (size_t i = 0; i < rows.size(); ++i) *Row(out, i) = x.data[rows[i] * x.stride];
  }
  void PrepareAttention(const kernels::PagedArena& cache,
                        const kernels::Projections& projections) override {
    for (const kernels::HeadWay& way : projections.ways) {
      if (!way.is_written) continue;
      const std::span<const int64_t> slots = projections.SlotsOf(way.plane);
      for (size_t i = 0; i < slots.size(); ++i) {
        *Entry(cache, way.plane, way.head_dim, slots[i]) =
            way.data[static_cast<int64_t>(i) * way.stride];
      }
    }
  }
  void Attention(const kernels::PagedArena& cache, std::span<const kernels::SequenceRows> sequences,
                 std::span<const kernels::PlaneGroup> groups) override {
    const kernels::HeadAttention& head = groups[0].heads[0];
    for (const kernels::SequenceRows& sequence : sequences) {
      const int64_t last = sequence.first_position + sequence.num_rows;
      uint32_t hash = kSeed;
      for (int64_t position = 0; position < last; ++position) {
        hash = Fold(hash, static_cast<uint32_t>(TokenAt(cache, sequence, groups[0], position)));
        if (position < sequence.first_position) continue;
        const int64_t row = sequence.first_row + position - sequence.first_position;
        head.output[row * head.output_stride] = Digest(hash);
      }
    }
  }
  bool asynchronous() const override { return asynchronous_; }

 private:
  static float* Row(Rows rows, size_t i) {
    return rows.data + static_cast<int64_t>(i) * rows.stride;
  }
  static float* Entry(const kernels::PagedArena& cache, const kernels::PlaneRef& plane,
                      int32_t head_dim, int64_t slot) {
    const auto block = static_cast<size_t>(slot / cache.block_tokens);
    const auto place = static_cast<size_t>(slot % cache.block_tokens);
    return reinterpret_cast<float*>(cache.arena + block * cache.place_bytes + plane.offset) +
           place * static_cast<size_t>(head_dim);
  }

  // The token read from the cache's keys or, in a layer that reuses scores, from the owner's
  // scores.
  static float TokenAt(const kernels::PagedArena& cache, const kernels::SequenceRows& sequence,
                       const kernels::PlaneGroup& group, int64_t position) {
    const kernels::HeadAttention& head = group.heads[0];
    const int64_t place = position % cache.block_tokens;
    float* score = nullptr;
    if (sequence.score_table != nullptr && head.score_slot >= 0) {
      const int64_t block = sequence.score_table[position / cache.block_tokens];
      score =
          cache.scores + (block * cache.score_slots + head.score_slot) * cache.block_tokens + place;
      if (head.reused_lse != nullptr) return *score;
    }
    const int32_t* const table = sequence.block_tables[group.keys.block_group];
    const int64_t block = table[position / cache.block_tokens];
    const float token =
        *Entry(cache, group.keys, group.head_dim, block * cache.block_tokens + place);
    if (score != nullptr) *score = token;
    return token;
  }

  const std::function<bool()> fail_;
  const bool asynchronous_;
  int64_t vocab_size_ = 0;
};

}  // namespace

std::unique_ptr<kernels::Backend> MakeHashBackend(std::function<bool()> fail, bool asynchronous) {
  return std::make_unique<HashBackend>(std::move(fail), asynchronous);
}

int32_t HashNext(std::span<const int32_t> tokens, int32_t vocab_size) {
  uint32_t hash = kSeed;
  for (const int32_t token : tokens) hash = Fold(hash, static_cast<uint32_t>(token));
  return TokenOf(Digest(hash), vocab_size);
}

}  // namespace strata::testing
