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
    PagedArena arena = {
        .block_tokens = kTokens, .key_format = dtypes.keys, .value_format = dtypes.values};
    const size_t key_bytes = arena.TokenBytes(PlaneKind::kKey, kDim) * kTokens;
    const size_t value_bytes = arena.TokenBytes(PlaneKind::kValue, kDim) * kTokens;
    arena.place_bytes = 3 * (key_bytes + value_bytes) + 64;
    const std::vector<std::byte> marks(arena.place_bytes * 8, std::byte{0xa7});
    std::unique_ptr<Buffer> memory;
    std::vector<float> after;
    std::vector<std::byte> bytes;
    InEveryOrder([&] {
      memory = Upload(*backend_, marks);
      arena.arena = memory->data();
      BackendRows rows(*backend_, GuardedRows(kRows, kWidth, before));
      BackendRows first(*backend_, GuardedRows(kRows, 2 * kDim, firsts));
      std::vector<HeadWay> ways;
      for (int64_t h = 0; h < 9; ++h) {  // three of queries, of keys and of values
        HeadWay& way = ways.emplace_back(
            HeadWay{.data = rows.At(0, h * kDim), .stride = rows.stride(), .head_dim = kDim});
        const auto head = static_cast<size_t>(h % 3);
        if (h < 6) {
          way.rotated = kDim;
          way.rope_table = table->floats();
        } else if (h > 6) {
          way.first_values = first.At(0, (h - 7) * kDim);
          way.first_stride = first.stride();
          way.own = 0.3f;
          way.first = 1.7f;
        }
        way.is_written = h >= 3;
        way.kind = h < 6 ? PlaneKind::kKey : PlaneKind::kValue;
        way.plane.offset = h < 6 ? head * key_bytes : 3 * key_bytes + head * value_bytes;
      }
      backend_->PrepareAttention(
          arena, {.num_rows = kRows, .ways = ways, .positions = positions, .slots = slots});
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
            &expected[slot / kTokens * arena.place_bytes +
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
          << "byte " << i % arena.place_bytes << " of block " << i / arena.place_bytes;
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
  PagedArena arena = {.place_bytes = 4 * (kDim + 4),
                      .block_tokens = 4,
                      .key_format = PlaneFormat::kI8,
                      .value_format = PlaneFormat::kI8};
  const std::unique_ptr<Buffer> memory =
      Upload(*backend_, std::vector<std::byte>(arena.place_bytes, std::byte{0x55}));
  arena.arena = memory->data();
  const HeadWay way = WriteWay(PlaneKind::kKey, {}, rows->floats(), kDim, kDim);
  const std::vector<int64_t> slots = {0, 1, 2, 3};
  backend_->PrepareAttention(arena, {.num_rows = 4, .ways = {&way, 1}, .slots = slots});
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

// One call gives the bits of a call for each step: bias, norm, rotation of a part, mix. 67 ways are
// more than a launch takes.
TEST_F(CudaRowsTest, AWayRunsItsStepsInOrder) {
  constexpr int32_t kDim = 10;
  constexpr int32_t kRotated = 6;
  constexpr int64_t kHeads = 67;
  const std::vector<float> values = Random(6).Normals(kRows * kHeads * kDim);
  const std::unique_ptr<Buffer> table = Upload(*backend_, Random(7).Normals(kRows * kRotated));
  const std::unique_ptr<Buffer> bias = Upload(*backend_, Random(8).Normals(kDim));
  const std::unique_ptr<Buffer> weight = Upload(*backend_, Random(9).Normals(kDim));
  const std::unique_ptr<Buffer> first = Upload(*backend_, Random(10).Normals(kRows * kDim));
  std::vector<int32_t> positions(kRows);
  for (int32_t i = 0; i < kRows; ++i) positions[static_cast<size_t>(i)] = kRows - 1 - i;
  const auto run = [&](BackendRows& rows, std::initializer_list<int> steps) {
    std::vector<HeadWay> ways;
    for (int64_t h = 0; h < kHeads; ++h) {
      HeadWay way = {.data = rows.At(0, h * kDim), .stride = rows.stride(), .head_dim = kDim};
      for (const int step : steps) {
        if (step == 0) way.bias = bias->floats();
        if (step == 1) way.norm = {weight->floats(), 1e-5f};
        if (step == 2) way.rotated = kRotated;
        if (step == 2) way.rope_table = table->floats();
        if (step == 3) way.first_values = first->floats();
      }
      way.first_stride = kDim;
      way.own = 0.3f;
      way.first = 1.7f;
      ways.push_back(way);
    }
    backend_->PrepareAttention({}, {.num_rows = kRows, .ways = ways, .positions = positions});
  };
  const auto after = [&](std::initializer_list<std::initializer_list<int>> calls) {
    BackendRows rows(*backend_, GuardedRows(kRows, kHeads * kDim, values));
    for (const auto& steps : calls) run(rows, steps);
    return rows.Fetch().Values();
  };
  InEveryOrder([&] {
    const std::vector<float> together = after({{0, 1, 2, 3}});
    ExpectSameBits(after({{0}, {1}, {2}, {3}}), together, "the steps of a way");
    // The bias and the norm themselves, in double.
    const std::vector<float> normed = after({{0, 1}});
    const auto biases = Download<float>(*backend_, *bias);
    const auto weights = Download<float>(*backend_, *weight);
    for (size_t begin = 0; begin < values.size(); begin += kDim) {
      double squares = 0;
      for (size_t j = 0; j < kDim; ++j) {
        const double x = double{values[begin + j]} + double{biases[j]};
        squares += x * x / kDim;
      }
      for (size_t j = 0; j < kDim; ++j) {
        const double x = double{values[begin + j]} + double{biases[j]};
        const double expected = x / std::sqrt(squares + double{1e-5f}) * double{weights[j]};
        // x is rounded once; the sum, root, division and products, some ten times.
        ASSERT_NEAR(normed[begin + j], expected,
                    (std::abs(expected) * 12 + std::abs(double{values[begin + j]})) * 4 * kUnit);
      }
    }
  });
}

}  // namespace
}  // namespace strata::kernels::cuda_rows_test
