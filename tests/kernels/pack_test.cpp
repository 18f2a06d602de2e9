// Weights as Pack keeps them: rounded, quantised, widened.

#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::pack_test {
namespace {

// A matrix of one column packs and embeds one number a row.
std::vector<float> RoundTrip(ElementType from, const std::vector<std::byte>& bytes, int64_t count,
                             MatrixFormat stored) {
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  const HostRows rows{from, bytes.data() + 1, count, 1};
  auto packed = backend->Pack({&rows, 1}, stored);
  EXPECT_TRUE(packed.ok());
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::vector<float> out(ids.size());
  backend->Embed(**packed, ids, {out.data(), count, 1, 1});
  return out;
}

TEST(PackTest, NarrowsToNearestEvenAndKeepsNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values = {
      0.0f,      -0.0f,     1.0f,          infinity,  -infinity,
      0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, 0x1p-140f, std::numeric_limits<float>::max()};
  for (const float value : Random(4).Normals(1000)) values.push_back(value);
  const auto count = static_cast<int64_t>(values.size());
  const std::vector<float> out =
      RoundTrip(ElementType::kF32, Bytes(values, ElementType::kF32), count, MatrixFormat::kBF16);
  for (size_t i = 0; i < values.size(); ++i) {
    const float expected = std::isinf(values[i]) ? values[i]
                           : values[i] == std::numeric_limits<float>::max()
                               ? infinity
                               : NearestBF16(values[i]);
    EXPECT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(expected)) << values[i];
  }
  for (const uint32_t bits : {0x7f800001u, 0xffffffffu, 0x7fc00000u}) {
    const std::vector<float> nan = {std::bit_cast<float>(bits)};
    EXPECT_TRUE(std::isnan(
        RoundTrip(ElementType::kF32, Bytes(nan, ElementType::kF32), 1, MatrixFormat::kBF16)[0]));
  }
}

// One output whose largest weight is 127 steps.
TEST(PackTest, QuantisesToNearestEven) {
  for (const float step : {1.0f, 0x1p-40f, 3.0f, 0x1p-149f}) {
    const std::vector<float> steps = {127, 0.5f, -0.5f, 1.5f, 2.5f, -126.5f, 3, -127, 0, 63.75f};
    const std::vector<float> expected = {127, 0, 0, 2, 2, -126, 3, -127, 0, 64};
    std::vector<float> weights;
    for (size_t k = 0; k < steps.size(); ++k) {
      // Fractions of the smallest step do not exist as floats: whole steps are tested instead.
      weights.push_back((step > 0x1p-100f ? steps[k] : expected[k]) * step);
    }
    const std::vector<std::byte> bytes = Bytes(weights, ElementType::kF32);
    const auto count = static_cast<int64_t>(weights.size());
    const HostRows row{ElementType::kF32, bytes.data() + 1, 1, count};
    const std::unique_ptr<Backend> backend = MakeCpu(1);
    auto packed = backend->Pack({&row, 1}, MatrixFormat::kI8);
    ASSERT_TRUE(packed.ok());
    EXPECT_EQ((*packed)->bytes(), 32U * 12 + 32 * sizeof(float));
    std::vector<float> out(weights.size());
    const int32_t id = 0;
    backend->Embed(**packed, {&id, 1}, {out.data(), 1, count, count});
    for (size_t k = 0; k < out.size(); ++k) EXPECT_EQ(out[k], expected[k] * step) << k;
  }
}

// Every number is its output's largest: 127 steps, for any magnitude.
TEST(PackTest, QuantisesEveryMagnitude) {
  std::vector<float> values = {0.0f, -0.0f, 0x1p-149f, -0x1p-145f, 0x1p-130f, 0x1.8p127f};
  for (const float value : Random(4).Normals(1000)) values.push_back(value);
  const std::vector<float> out = RoundTrip(ElementType::kF32, Bytes(values, ElementType::kF32),
                                           static_cast<int64_t>(values.size()), MatrixFormat::kI8);
  for (size_t i = 0; i < values.size(); ++i) {
    // A step is rounded to 2^-149 at least, and 127 of them make the number.
    EXPECT_NEAR(out[i], values[i], 127 * 0x1p-150 + 2 * kUnit * std::abs(double{values[i]}));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_TRUE(std::isnan(
        RoundTrip(ElementType::kF32, Bytes({value}, ElementType::kF32), 1, MatrixFormat::kI8)[0]));
  }
}

TEST(PackTest, WidensEveryHalfExactly) {
  std::vector<std::byte> bytes(1 + 2 * 65536);
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<uint16_t>(i);
    std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
  }
  const std::vector<float> from_f16 =
      RoundTrip(ElementType::kF16, bytes, 65536, MatrixFormat::kF32);
  const std::vector<float> from_bf16 =
      RoundTrip(ElementType::kBF16, bytes, 65536, MatrixFormat::kBF16);
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto exponent = static_cast<int>((i >> 10) & 31);
    const double fraction = i & 1023;
    const double sign = i >= 32768 ? -1 : 1;
    const double expected = sign * (exponent == 0 ? fraction * 0x1p-24
                                                  : std::ldexp(1 + fraction / 1024, exponent - 15));
    if (exponent == 31 && fraction != 0) {
      EXPECT_TRUE(std::isnan(from_f16[i])) << i;
    } else {
      EXPECT_EQ(from_f16[i], exponent == 31 ? sign * HUGE_VAL : expected) << i;
    }
    const float bf16 = std::bit_cast<float>(i << 16);
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(from_bf16[i])) << i;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(from_bf16[i]), i << 16);
    }
  }
}

}  // namespace
}  // namespace strata::kernels::pack_test
