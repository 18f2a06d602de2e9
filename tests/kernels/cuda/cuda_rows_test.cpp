// Operations of the CUDA backend on rows other than products and attention: rotation, mixing,
// writing to the cache, gathering.

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::cuda_rows_test {
namespace {

constexpr int64_t kRows = 11;

class CudaRowsTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) backend_ = MakeCuda();
  }
  std::unique_ptr<Backend> backend_;
};

TEST_F(CudaRowsTest, GathersRowsAlsoInPlace) {
  for (const int64_t width : {1, 37, 600}) {
    const std::vector<float> values = Random(1).Normals(kRows * width);
    BackendRows x(*backend_, GuardedRows(kRows, width, values));
    const std::vector<int32_t> rows = {4, 0, 4};
    BackendRows out(*backend_, GuardedRows(3, width));
    backend_->GatherRows(x.rows(), rows, out.rows());
    const std::vector<int32_t> ascending = {1, 2, 5, 9};
    backend_->GatherRows(x.rows(), ascending, x.row(0, 4));
    const auto value = [&](int64_t row, int64_t j) {
      return values[static_cast<size_t>(row * width + j)];
    };
    GuardedRows& apart = out.Fetch();
    GuardedRows& in_place = x.Fetch();
    for (int64_t j = 0; j < width; ++j) {
      for (size_t i = 0; i < 3; ++i) {
        ASSERT_EQ(apart.at(static_cast<int64_t>(i), j), value(rows[i], j));
      }
      for (int64_t i = 0; i < kRows; ++i) {
        const int64_t from = i < 4 ? ascending[static_cast<size_t>(i)] : i;
        ASSERT_EQ(in_place.at(i, j), value(from, j)) << "row " << i;
      }
    }
  }
}

// Queries, keys and values of three heads each side by side: queries and keys are rotated, two of
// the values mixed, and keys and values written. The cache then holds the resulting rows.
TEST_F(CudaRowsTest, RotatesMixesAndWrites) {
  constexpr int32_t kDim = 20;
  constexpr int64_t kWidth = 9 * kDim;
  constexpr int32_t kTokens = 5;
  const std::vector<float> before = Random(2).Normals(kRows * kWidth);
  const std::vector<float> firsts = Random(3).Normals(kRows * 2 * kDim);
  const std::vector<float> angles = Random(4).Normals(40 * kDim);
  std::vector<int32_t> positions;
  std::vector<int64_t> slots(40);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(i);
  Random(5).Shuffle(slots);
  slots.resize(kRows);
  for (const int64_t slot : slots) positions.push_back(static_cast<int32_t>(39 - slot));
  const std::unique_ptr<Buffer> table = Upload(*backend_, angles);
  for (const CacheFormats dtypes :
       {kF32Cache, kBF16Cache, kF16Cache, kInt8Cache, kFp8Cache, kInt8Keys}) {
    SCOPED_TRACE(NameOf(dtypes));
    PagedArena arena = {.block_tokens = kTokens,
                        .head_dim = kDim,
                        .key_format = dtypes.keys,
                        .value_format = dtypes.values};
    const size_t key_bytes = arena.TokenBytes(PlaneKind::kKey) * kTokens;
    const size_t value_bytes = arena.TokenBytes(PlaneKind::kValue) * kTokens;
    arena.block_bytes = 3 * (key_bytes + value_bytes) + 64;
    const std::vector<std::byte> marks(arena.block_bytes * 8, std::byte{0xa7});
    std::unique_ptr<Buffer> memory;
    std::vector<float> after;
    std::vector<std::byte> bytes;
    InEveryOrder([&] {
      memory = Upload(*backend_, marks);
      arena.arena = memory->data();
      BackendRows rows(*backend_, GuardedRows(kRows, kWidth, before));
      BackendRows first(*backend_, GuardedRows(kRows, 2 * kDim, firsts));
      const ValueMix mix = {rows.rows().Columns(7 * kDim, 2 * kDim), first.rows(), 0.3f, 1.7f};
      std::vector<PlaneWrite> writes;
      for (int64_t h = 0; h < 3; ++h) {
        const auto head = static_cast<size_t>(h);
        writes.push_back(
            {PlaneKind::kKey, head * key_bytes, rows.At(0, (3 + h) * kDim), rows.stride()});
        writes.push_back({PlaneKind::kValue, 3 * key_bytes + head * value_bytes,
                          rows.At(0, (6 + h) * kDim), rows.stride()});
      }
      backend_->PrepareAttention(arena, {.rotated = rows.rows().Columns(0, 6 * kDim),
                                         .positions = positions,
                                         .rope_table = table->floats(),
                                         .mixes = {&mix, 1},
                                         .writes = writes,
                                         .slots = slots});
      const std::vector<float> got = rows.Fetch().Values();
      if (after.empty()) after = got;
      ExpectSameBits(after, got, "rows");
      const auto held = Download<std::byte>(*backend_, *memory);
      if (bytes.empty()) bytes = held;
      EXPECT_TRUE(held == bytes) << "the cache";
    });

    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kWidth; ++j) {
        const auto at = static_cast<size_t>(i * kWidth + j);
        const int64_t d = j % kDim;
        const auto angle =
            static_cast<size_t>(positions[static_cast<size_t>(i)] * kDim + d % (kDim / 2));
        const double own = before[at];
        double expected = own;
        double sizes = 0;
        if (j < 6 * kDim) {
          const bool low = d < kDim / 2;
          const double partner = before[low ? at + kDim / 2 : at - kDim / 2];
          const double turned = partner * angles[angle + kDim / 2];
          expected = own * angles[angle] + (low ? -turned : turned);
          sizes = std::abs(own * angles[angle]) + std::abs(turned);
        } else if (j >= 7 * kDim) {
          const double other =
              double{1.7f} * firsts[static_cast<size_t>(i * 2 * kDim + j - 7 * kDim)];
          expected = double{0.3f} * own + other;
          sizes = std::abs(own) + std::abs(other);
        }
        ASSERT_NEAR(after[at], expected, 2 * kUnit * sizes) << i << ", " << j;
      }
    }

    // The planes hold these rows, [block_tokens][head_dim], and nothing else has changed.
    std::vector<std::byte> expected = marks;
    for (int64_t i = 0; i < kRows; ++i) {
      const auto slot = static_cast<size_t>(slots[static_cast<size_t>(i)]);
      for (size_t h = 0; h < 6; ++h) {
        const PlaneFormat dtype = h < 3 ? dtypes.keys : dtypes.values;
        const float* row = &after[static_cast<size_t>(i * kWidth) + (3 + h) * kDim];
        std::byte* const plane =
            &expected[slot / kTokens * arena.block_bytes +
                      (h < 3 ? h * key_bytes : 3 * key_bytes + (h - 3) * value_bytes)];
        const size_t token = slot % kTokens;
        float largest = 0;
        for (int d = 0; d < kDim; ++d) largest = std::fmax(largest, std::fabs(row[d]));
        const float scale = largest / (dtype == PlaneFormat::kF8 ? 448.0f : 127.0f);
        for (size_t d = 0; d < kDim; ++d) {
          std::byte* const to = plane + (token * kDim + d) * NumberBytes(dtype);
          const auto bf16 =
              static_cast<uint16_t>(std::bit_cast<uint32_t>(NearestBF16(row[d])) >> 16);
          const auto f16 = static_cast<uint16_t>(NearestCode(kF16Codes, row[d]));
          const auto q =
              static_cast<int8_t>(std::clamp(std::nearbyint(row[d] / scale), -127.0f, 127.0f));
          const auto e4m3 = static_cast<uint8_t>(NearestCode(kE4M3Codes, row[d] / scale));
          if (dtype == PlaneFormat::kF32) std::memcpy(to, &row[d], 4);
          if (dtype == PlaneFormat::kBF16) std::memcpy(to, &bf16, 2);
          if (dtype == PlaneFormat::kF16) std::memcpy(to, &f16, 2);
          if (dtype == PlaneFormat::kI8) std::memcpy(to, &q, 1);
          if (dtype == PlaneFormat::kF8) std::memcpy(to, &e4m3, 1);
        }
        if (HasScale(dtype)) std::memcpy(plane + kTokens * kDim + 4 * token, &scale, 4);
      }
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(bytes[i], expected[i])
          << "byte " << i % arena.block_bytes << " of block " << i / arena.block_bytes;
    }
  }
}

// A row that is not finite has a scale of NaN, a row of zeros a scale of 0.
TEST_F(CudaRowsTest, Int8RowsOfAllKinds) {
  constexpr int32_t kDim = 8;
  std::vector<float> values(4 * kDim, 1.0f);
  values[1] = std::nanf("");
  values[kDim + 2] = -INFINITY;
  std::fill_n(values.begin() + 2 * kDim, kDim, -0.0f);
  values[3 * kDim] = 127;
  values[3 * kDim + 1] = 2.5f;  // a tie with scale 1
  const std::unique_ptr<Buffer> rows = Upload(*backend_, values);
  PagedArena arena = {.block_bytes = 4 * (kDim + 4),
                      .block_tokens = 4,
                      .head_dim = kDim,
                      .key_format = PlaneFormat::kI8,
                      .value_format = PlaneFormat::kI8};
  const std::unique_ptr<Buffer> memory =
      Upload(*backend_, std::vector<std::byte>(arena.block_bytes, std::byte{0x55}));
  arena.arena = memory->data();
  const PlaneWrite write = {PlaneKind::kKey, 0, rows->floats(), kDim};
  const std::vector<int64_t> slots = {0, 1, 2, 3};
  backend_->PrepareAttention(arena, {.writes = {&write, 1}, .slots = slots});
  const auto held = Download<int8_t>(*backend_, *memory);
  float scales[4];
  std::memcpy(scales, &held[4 * kDim], sizeof(scales));
  EXPECT_TRUE(std::isnan(scales[0]));
  EXPECT_TRUE(std::isnan(scales[1]));
  EXPECT_EQ(scales[2], 0);
  EXPECT_EQ(scales[3], 1);
  for (size_t i = 0; i < 3 * kDim; ++i) EXPECT_EQ(held[i], 0);
  EXPECT_EQ(held[3 * kDim], 127);
  EXPECT_EQ(held[3 * kDim + 1], 2);
}

TEST_F(CudaRowsTest, RowsOfNoSlotAreNotWritten) {
  for (const CacheFormats dtypes : {kF32Cache, kBF16Cache, kInt8Cache}) {
    SCOPED_TRACE(NameOf(dtypes));
    ExpectRowsOfNoSlotAreNotWritten(*backend_, dtypes);
  }
}

// Two planes of the same rotated rows: the second is written after the first rotation.
TEST_F(CudaRowsTest, RowsThatAreWrittenTwice) {
  constexpr int32_t kDim = 8;
  const std::vector<float> values = Random(6).Normals(kRows * kDim);
  const std::unique_ptr<Buffer> table = Upload(*backend_, Random(7).Normals(kRows * kDim));
  PagedArena arena = {.block_bytes = 2 * kDim * 4, .block_tokens = 1, .head_dim = kDim};
  const std::unique_ptr<Buffer> memory =
      Upload(*backend_, std::vector<float>(static_cast<size_t>(kRows * 2 * kDim)));
  arena.arena = memory->data();
  std::vector<int32_t> positions;
  std::vector<int64_t> slots;
  for (int32_t i = 0; i < kRows; ++i) {
    positions.push_back(i);
    slots.push_back(i);
  }
  InEveryOrder([&] {
    BackendRows rows(*backend_, GuardedRows(kRows, kDim, values));
    const PlaneWrite writes[] = {{PlaneKind::kKey, 0, rows.At(0, 0), rows.stride()},
                                 {PlaneKind::kValue, kDim * 4, rows.At(0, 0), rows.stride()}};
    backend_->PrepareAttention(arena, {.rotated = rows.rows(),
                                       .positions = positions,
                                       .rope_table = table->floats(),
                                       .writes = writes,
                                       .slots = slots});
    GuardedRows& after = rows.Fetch();
    const auto held = Download<float>(*backend_, *memory);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t d = 0; d < kDim; ++d) {
        EXPECT_EQ(held[static_cast<size_t>(i * 2 * kDim + d)], after.at(i, d));
        EXPECT_EQ(held[static_cast<size_t>((i * 2 + 1) * kDim + d)], after.at(i, d));
      }
    }
  });
}

}  // namespace
}  // namespace strata::kernels::cuda_rows_test
