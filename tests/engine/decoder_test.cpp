// Making a decoder: of the largest shape that a config may have, and of one with many positions.
#include "engine/decode/decoder.h"

#include <algorithm>
#include <cstring>

#include "gtest/gtest.h"
#include "tests/support/null_backend.h"

namespace strata::testing::decoder_test {
namespace {

// Records the copies to it, in order.
class ListeningBackend final : public NullBackend {
 public:
  void CopyFromHost(std::byte* to, std::span<const std::byte> from) override {
    NullBackend::CopyFromHost(to, from);
    EXPECT_TRUE(end_ == nullptr || to == end_) << "pieces adjoin";
    end_ = to + from.size();
    const auto* floats = reinterpret_cast<const float*>(from.data());
    copied_.insert(copied_.end(), floats, floats + from.size() / sizeof(float));
    largest_ = std::max(largest_, from.size());
  }
  const std::vector<float>& copied() const { return copied_; }
  size_t largest() const { return largest_; }

 private:
  const std::byte* end_ = nullptr;
  std::vector<float> copied_;
  size_t largest_ = 0;
};

absl::StatusOr<std::unique_ptr<engine::Decoder>> Make(const kvcache::AttentionShape& shape,
                                                      int32_t max_positions,
                                                      kernels::Backend* backend) {
  engine::LayerSpec layer;
  layer.attention = {.num_query_heads = shape.num_query_heads,
                     .num_kv_heads = shape.num_kv_heads,
                     .head_dim = shape.head_dim,
                     .rope = engine::RopeSpec{.width = shape.head_dim}};
  layer.feed_forward.width = 2;
  engine::ModelSpec spec;
  spec.layers.assign(static_cast<size_t>(shape.num_layers), layer);
  spec.hidden_size = 2;
  spec.max_positions = max_positions;
  const auto plan = kvcache::SharingPlan::Plain(shape);
  const engine::Weights weights;
  return engine::Decoder::Create(spec, plan, engine::LayoutOf(spec, plan),
                                 kvcache::PlaneMap(plan, {}, /*block_tokens=*/1), &weights, backend,
                                 /*max_rows=*/1);
}

// A million heads: a search among all heads for each head would never end.
TEST(DecoderTest, TheMostLayersAndHeadsAreMade) {
  NullBackend backend;
  EXPECT_TRUE(Make({1024, 1024, 1, 2}, 1, &backend).ok());
}

TEST(DecoderTest, TheTableOfAnglesComesInPieces) {
  ListeningBackend backend;
  constexpr int32_t kPositions = 10000;
  const auto decoder = Make({1, 1, 1, 64}, kPositions, &backend);
  ASSERT_TRUE(decoder.ok());
  EXPECT_LE(backend.largest(), size_t{1} << 20);
  EXPECT_EQ(backend.copied(), engine::RopeTable({}, 64, 0, kPositions));
}

}  // namespace
}  // namespace strata::testing::decoder_test
