#include "kernels/cpu/int8_tile.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/quantise.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::int8_tile_test {
namespace {

// Naive, in integers and with the C library's fma.
std::vector<float> Expected(size_t rows, const std::vector<int8_t>& x, const Int8Tile& tile) {
  std::vector<float> sums;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t j = 0; j < kInt8Columns; ++j) {
      int64_t sum = 0;
      for (size_t k = 0; k < tile.groups * 4; ++k) {
        const int64_t w = int64_t{tile.w[(k / 4 * kInt8Columns + j) * 4 + k % 4]} - 128;
        sum += w * x[r * kInt8Depth + k];
      }
      const float before = tile.first ? 0.0f : tile.sums[r * kInt8Columns + j];
      sums.push_back(std::fma(static_cast<float>(sum), tile.scales[r], before));
    }
  }
  return sums;
}

std::vector<int16_t> Widened(const std::vector<int8_t>& x) {
  std::vector<int16_t> widened;
  for (size_t i = 0; i < x.size(); i += 4) {
    for (const size_t k : {0U, 2U, 1U, 3U}) widened.push_back(x[i + k]);
  }
  return widened;
}

// `extreme`: the largest magnitudes, with random signs or all alike.
int32_t Byte(Random& random, int extreme) {
  if (extreme == 0) return static_cast<int32_t>(random.Below(255)) - 127;
  return extreme == 1 || random.Below(2) == 0 ? 127 : -127;
}

TEST(Int8TileTest, EveryKernelHasTheSameBits) {
  Random random(1);
  std::vector<int8_t> x(kInt8MaxRows * kInt8Depth);
  std::vector<uint8_t> w(kInt8Columns * kInt8Depth);
  std::vector<int32_t> starts(kInt8MaxRows);
  const std::vector<float> scales = random.Normals(kInt8MaxRows);
  const std::vector<float> before = random.Normals(kInt8MaxRows * kInt8Columns, 1000);
  int kernels = 0;
  for (const size_t groups : {1U, 2U, 17U, 64U}) {
    for (const int extreme : {0, 1, 2}) {
      for (int8_t& value : x) value = static_cast<int8_t>(Byte(random, extreme));
      for (uint8_t& value : w) value = static_cast<uint8_t>(Byte(random, extreme) + 128);
      for (size_t r = 0; r < kInt8MaxRows; ++r) {
        starts[r] = 0;
        for (size_t k = 0; k < groups * 4; ++k) starts[r] -= 128 * x[r * kInt8Depth + k];
      }
      const std::vector<int16_t> widened = Widened(x);
      const auto check = [&](const Int8Kernel& kernel) {
        ++kernels;
        ASSERT_LE(kernel.max_rows, kInt8MaxRows);
        for (size_t rows = 1; rows <= kernel.max_rows; ++rows) {
          for (const bool first : {true, false}) {
            SCOPED_TRACE(absl::StrCat(rows, " rows, ", groups, " groups, ", extreme));
            std::vector<float> sums = before;
            const Int8Tile tile = {
                .x = kernel.widened ? static_cast<const void*>(widened.data()) : x.data(),
                .starts = starts.data(),
                .scales = scales.data(),
                .w = w.data(),
                .later = reinterpret_cast<const std::byte*>(w.data()),
                .groups = groups,
                .first = first,
                .sums = sums.data()};
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
        check(PortableInt8Kernel());
      }
      SCOPED_TRACE("VNNI");
      if (HasVnni()) check(VnniInt8Kernel());
    }
  }
  EXPECT_GE(kernels, 12 * static_cast<int>(AllTargets().size()));
}

TEST(Int8TileTest, WidenedInputsAreTheSameInAnotherOrder) {
  Random random(2);
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    for (const size_t count : {1U, 3U, 4U, 5U, 30U, 64U, 255U, 256U}) {
      for (const float size : {1.0f, 1e-38f}) {  // the second counts as zeros
        const std::vector<float> x = random.Normals(count, size);
        std::vector<int8_t> bytes(kInt8Depth, 99);
        std::vector<int16_t> words(kInt8Depth, 99);
        int32_t start = 0;
        int32_t widened_start = 0;
        const float scale = QuantiseInputs(x.data(), count, false, bytes.data(), &start);
        EXPECT_EQ(QuantiseInputs(x.data(), count, true, words.data(), &widened_start), scale);
        EXPECT_EQ(widened_start, start);
        const std::vector<int16_t> expected = Widened(bytes);
        for (size_t i = 0; i < (count + 3) / 4 * 4; ++i) EXPECT_EQ(words[i], expected[i]) << i;
      }
    }
  }
}

// A row of inputs counts as zeros only below 2^-100: a power of two changes the scale and no bit of
// the values.
TEST(Int8TileTest, InputsOfEveryMagnitudeAreQuantisedByTheDefinition) {
  Random random(3);
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    for (const size_t count : {1U, 5U, 64U, 256U}) {
      std::vector<float> fractions(count);  // the largest is in [1, 2)
      for (float& x : fractions) x = static_cast<float>(random.Below(2001) - 1000) / 1001;
      fractions[count / 2] = count % 2 == 0 ? -1.0f : 1.75f;
      for (int exponent = -126; exponent <= 127; ++exponent) {
        SCOPED_TRACE(absl::StrCat(count, " inputs times 2^", exponent));
        std::vector<float> x(count);
        for (size_t i = 0; i < count; ++i) x[i] = std::ldexp(fractions[i], exponent);
        std::vector<int8_t> q(kInt8Depth, 99);
        int32_t start = 0;
        const float scale = QuantiseInputs(x.data(), count, false, q.data(), &start);
        const float most = std::abs(x[count / 2]);
        ASSERT_EQ(scale, exponent < -100 ? 0.0f : most / 127);
        int32_t sum = 0;
        for (size_t i = 0; i < count; ++i) {
          const double exact =
              exponent < -100 ? 0.0 : std::nearbyint(double{x[i]} * double{127 / most});
          ASSERT_EQ(q[i], exact) << x[i] << " at " << i;
          sum += q[i];
        }
        ASSERT_EQ(start, -128 * sum);
      }
    }
    std::vector<int8_t> q(kInt8Depth);
    int32_t start = 0;
    const float least = 0x1p-100f;
    const float below = std::nextafter(least, 0.0f);
    EXPECT_GT(QuantiseInputs(&least, 1, false, q.data(), &start), 0);
    EXPECT_EQ(q[0], 127);
    EXPECT_EQ(QuantiseInputs(&below, 1, false, q.data(), &start), 0);
    EXPECT_EQ(q[0], 0);
  }
}

// The same for a whole product: rows smaller by a power of two give outputs smaller by that power,
// bit for bit.
TEST(Int8TileTest, SmallRowsAreMultipliedAsLargeOnesAre) {
  constexpr int64_t kOutputs = 40;
  constexpr int64_t kInputs = 300;  // more than a block
  constexpr int kExponents[] = {0, -10, -19, -21, -24, -40, -64, -90};
  constexpr int64_t kRows = std::size(kExponents);
  Random random(4);
  const std::vector<float> weights = random.Normals(kOutputs * kInputs);
  const std::vector<float> row = random.Normals(kInputs);
  std::vector<float> x;
  for (const int exponent : kExponents) {
    for (const float value : row) x.push_back(std::ldexp(value, exponent));
  }
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::vector<HostRows> parts = {
      {ElementType::kF32, reinterpret_cast<const std::byte*>(weights.data()), kOutputs, kInputs}};
  const auto matrix = backend->Pack(parts, MatrixFormat::kI8);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    GuardedRows in(kRows, kInputs, x);
    GuardedRows out(kRows, kOutputs);
    backend->MatMul(**matrix, in.rows(), {}, out.rows(), Backend::Store::kSet);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kOutputs; ++j) {
        ASSERT_NE(out.at(0, j), 0);
        ASSERT_EQ(out.at(i, j), std::ldexp(out.at(0, j), kExponents[i]))
            << "times 2^" << kExponents[i] << ", column " << j;
      }
    }
  }
}

}  // namespace
}  // namespace strata::kernels::int8_tile_test
