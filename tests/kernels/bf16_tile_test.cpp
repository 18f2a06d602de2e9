#include "kernels/cpu/bf16_tile.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/convert.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::bf16_tile_test {
namespace {

uint16_t BF16(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

// The definition, with the C library's fma.
std::vector<float> Expected(size_t rows, const std::vector<uint16_t>& x, const BF16Tile& tile) {
  std::vector<float> sums;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t j = 0; j < kBF16Columns; ++j) {
      float sum = 0;
      for (size_t k = 0; k < 2 * tile.groups; k += 2) {
        for (const size_t i : {k + 1, k}) {
          sum = std::fma(FloatFromBF16(x[r * kBF16Depth + i]),
                         FloatFromBF16(tile.w[(k / 2 * kBF16Columns + j) * 2 + i % 2]), sum);
        }
      }
      sums.push_back(tile.first ? sum : tile.sums[r * kBF16Columns + j] + sum);
    }
  }
  return sums;
}

TEST(BF16TileTest, EveryKernelHasTheSameBits) {
  Random random(1);
  std::vector<uint16_t> x(kBF16MaxRows * kBF16Depth);
  std::vector<float> widened(x.size());
  std::vector<uint16_t> w(kBF16Columns * kBF16Depth);
  const std::vector<float> before = random.Normals(kBF16MaxRows * kBF16Columns, 1000);
  int kernels = 0;
  for (const size_t groups : {1U, 2U, 17U, 128U}) {
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = BF16(random.Normals(1, 3)[0]);
      widened[i] = FloatFromBF16(x[i]);
    }
    for (uint16_t& value : w) value = BF16(random.Normals(1)[0]);
    const auto check = [&](const BF16Kernel& kernel) {
      ++kernels;
      ASSERT_LE(kernel.max_rows, kBF16MaxRows);
      for (size_t rows = 1; rows <= kernel.max_rows; ++rows) {
        for (const bool first : {true, false}) {
          SCOPED_TRACE(absl::StrCat(rows, " rows, ", groups, " groups"));
          std::vector<float> sums = before;
          BF16Tile tile = {.w = w.data(),
                           .later = reinterpret_cast<const std::byte*>(w.data()),
                           .groups = groups,
                           .first = first};
          tile.x = kernel.widened ? static_cast<const void*>(widened.data()) : x.data();
          tile.sums = sums.data();
          const std::vector<float> expected = Expected(rows, x, tile);
          kernel.multiply(rows, tile);
          const auto written = static_cast<std::ptrdiff_t>(expected.size());
          ExpectSameBits(expected, {sums.begin(), sums.begin() + written}, "sums");
          ExpectSameBits({before.begin() + written, before.end()},
                         {sums.begin() + written, sums.end()}, "behind the last row");
        }
      }
    };
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      SCOPED_TRACE(hwy::TargetName(target));
      check(PortableBF16Kernel());
    }
    SCOPED_TRACE("VDPBF16PS");
    if (HasBF16Dot()) check(DotBF16Kernel());
  }
  EXPECT_GE(kernels, 4 * static_cast<int>(AllTargets().size()));
}

TEST(BF16TileTest, RoundsToNearestEven) {
  Random random(2);
  std::vector<float> x = random.Normals(1000, 1e3);
  for (size_t i = 0; i < 300; ++i) {  // ties
    x[i] = std::bit_cast<float>((std::bit_cast<uint32_t>(x[i]) & 0xffff0000u) | 0x8000u);
  }
  const float inf = std::numeric_limits<float>::infinity();
  x.insert(x.end(), {0.0f, -0.0f, inf, -inf, std::numeric_limits<float>::max(),
                     std::numeric_limits<float>::denorm_min(), std::nanf(""),
                     std::bit_cast<float>(0x7f800001u), std::bit_cast<float>(0xffffffffu)});
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    for (const size_t count : {size_t{1}, size_t{2}, size_t{17}, size_t{40}, x.size()}) {
      SCOPED_TRACE(absl::StrCat(hwy::TargetName(target), ", ", count));
      const float* from = x.data() + x.size() - count;
      std::vector<float> wide(count + 2, 7.0f);
      std::vector<uint16_t> narrow(count + 2, 7);
      RoundToBF16(from, count, true, wide.data());
      RoundToBF16(from, count, false, narrow.data());
      for (size_t i = 0; i < count; ++i) {
        EXPECT_EQ(narrow[i], BF16FromFloat(from[i])) << from[i];
        EXPECT_EQ(std::bit_cast<uint32_t>(wide[i]), uint32_t{narrow[i]} << 16) << from[i];
      }
      EXPECT_EQ(narrow[count], count % 2 == 0 ? 7 : 0);
      EXPECT_EQ(wide[count], count % 2 == 0 ? 7.0f : 0.0f);
      EXPECT_EQ(narrow[count + 1], 7);
      EXPECT_EQ(wide[count + 1], 7.0f);
    }
  }
}

}  // namespace
}  // namespace strata::kernels::bf16_tile_test
