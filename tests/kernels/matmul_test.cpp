#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::matmul_test {
namespace {

struct Shape {
  int64_t outputs;
  int64_t inputs;
};

std::vector<std::byte> Bytes(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(1 + values.size() * DTypeSize(dtype));  // from an odd address on
  for (size_t i = 0; i < values.size(); ++i) {
    std::byte* to = bytes.data() + 1 + i * DTypeSize(dtype);
    const auto high = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    if (dtype == DType::kF32) std::memcpy(to, &values[i], 4);
    if (dtype == DType::kBF16) std::memcpy(to, &high, 2);
  }
  return bytes;
}

class MatMulTest : public testing::TestWithParam<std::tuple<DType, Shape>> {
 protected:
  DType stored() const { return std::get<0>(GetParam()); }
  int64_t outputs() const { return std::get<1>(GetParam()).outputs; }
  int64_t inputs() const { return std::get<1>(GetParam()).inputs; }

  MatMulTest() : weights_(Random(1).Normals(outputs() * inputs())) {}

  std::unique_ptr<Matrix> Pack(Backend& backend) {
    const std::vector<std::byte> bytes = Bytes(weights_, DType::kF32);
    // Two parts, cut anywhere.
    const int64_t cut = outputs() / 3;
    const std::byte* data = bytes.data() + 1;
    const std::vector<HostRows> parts = {
        {DType::kF32, data, cut, inputs()},
        {DType::kF32, data + cut * inputs() * 4, outputs() - cut, inputs()}};
    auto packed = backend.Pack(parts, stored());
    EXPECT_TRUE(packed.ok());
    return *std::move(packed);
  }

  // A chain of n fused multiply-adds is off by at most n units of the sum of its products' sizes,
  // and adding blocks by one unit each; kAdd adds one more rounding.
  void ExpectClose(const std::vector<float>& x, const std::vector<float>& out, int64_t rows) {
    const double units = static_cast<double>(std::min<int64_t>(inputs(), 256) + inputs() / 256 + 2);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < outputs(); ++j) {
        double sum = 0;
        double sizes = 0;
        for (int64_t k = 0; k < inputs(); ++k) {
          const double product =
              double{x[static_cast<size_t>(i * inputs() + k)]} *
              double{Stored(weights_[static_cast<size_t>(j * inputs() + k)], stored())};
          sum += product;
          sizes += std::abs(product);
        }
        ASSERT_NEAR(out[static_cast<size_t>(i * outputs() + j)], sum, units * kUnit * sizes)
            << "row " << i << " column " << j;
      }
    }
  }

  std::vector<float> weights_;
};

TEST_P(MatMulTest, MatchesOracleAndKeepsItsBits) {
  constexpr int64_t kMostRows = 29;
  const std::vector<float> x = Random(2).Normals(kMostRows * inputs());
  std::vector<float> reference;
  for (const int32_t threads : {1, 3}) {
    const std::unique_ptr<Backend> backend = MakeCpu(threads);
    const std::unique_ptr<Matrix> w = Pack(*backend);
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      for (const int64_t rows : {kMostRows, int64_t{13}, int64_t{5}, int64_t{2}, int64_t{1}}) {
        SCOPED_TRACE(absl::StrCat(hwy::TargetName(target), ", ", threads, " threads, ", rows));
        GuardedRows in(rows, inputs(), x);
        GuardedRows out(rows, outputs(), 7.0f);
        backend->MatMul(*w, in.rows(), out.rows(), Backend::Store::kSet);
        out.ExpectMarksIntact();
        if (reference.empty()) {
          reference = out.Values();
          ExpectClose(x, reference, rows);
        }
        const auto count = static_cast<int64_t>(rows * outputs());
        ExpectSameBits({reference.begin(), reference.begin() + count}, out.Values(), "kSet");
        GuardedRows added(rows, outputs(), 0.625f);
        backend->MatMul(*w, in.rows(), added.rows(), Backend::Store::kAdd);
        added.ExpectMarksIntact();
        std::vector<float> expected(reference.begin(), reference.begin() + count);
        for (float& value : expected) value += 0.625f;
        ExpectSameBits(expected, added.Values(), "kAdd");
      }
    }
  }
}

TEST_P(MatMulTest, ManyRowsAreTheRowsOneByOne) {
  constexpr int64_t kRows = 150;  // several blocks of rows
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::unique_ptr<Matrix> w = Pack(*backend);
  GuardedRows x(kRows, inputs(), Random(3).Normals(kRows * inputs()));
  GuardedRows together(kRows, outputs());
  GuardedRows alone(kRows, outputs());
  backend->MatMul(*w, x.rows(), together.rows(), Backend::Store::kSet);
  for (int64_t i = 0; i < kRows; ++i) {
    backend->MatMul(*w, x.row(i), alone.row(i), Backend::Store::kSet);
  }
  ExpectSameBits(alone.Values(), together.Values(), "rows alone against rows together");
  EXPECT_EQ(backend->counters().matrix_products, 1 + kRows);
}

TEST_P(MatMulTest, EmbedGathersTheStoredRows) {
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::unique_ptr<Matrix> table = Pack(*backend);
  const std::vector<int32_t> ids = {static_cast<int32_t>(outputs() - 1), 0, 0};
  GuardedRows out(3, inputs());
  backend->Embed(*table, ids, out.rows());
  out.ExpectMarksIntact();
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t k = 0; k < inputs(); ++k) {
      const auto at = static_cast<size_t>(ids[static_cast<size_t>(i)] * inputs() + k);
      ASSERT_EQ(out.at(i, k), Stored(weights_[at], stored()));
    }
  }
}

std::string ParamName(const testing::TestParamInfo<MatMulTest::ParamType>& test) {
  const auto& [stored, shape] = test.param;
  return absl::StrCat(std::string(DTypeName(stored)), "_", shape.outputs, "x", shape.inputs);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatMulTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(Shape{1, 1}, Shape{31, 5}, Shape{33, 255},
                                                          Shape{32, 256}, Shape{70, 257},
                                                          Shape{192, 576}, Shape{5, 1300})),
                         ParamName);

// A matrix of one column packs and embeds one number a row.
std::vector<float> RoundTrip(DType from, const std::vector<std::byte>& bytes, int64_t count,
                             DType stored) {
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
      RoundTrip(DType::kF32, Bytes(values, DType::kF32), count, DType::kBF16);
  for (size_t i = 0; i < values.size(); ++i) {
    const float expected = std::isinf(values[i]) ? values[i]
                           : values[i] == std::numeric_limits<float>::max()
                               ? infinity
                               : NearestBF16(values[i]);
    EXPECT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(expected)) << values[i];
  }
  for (const uint32_t bits : {0x7f800001u, 0xffffffffu, 0x7fc00000u}) {
    const std::vector<float> nan = {std::bit_cast<float>(bits)};
    EXPECT_TRUE(std::isnan(RoundTrip(DType::kF32, Bytes(nan, DType::kF32), 1, DType::kBF16)[0]));
  }
}

TEST(PackTest, WidensEveryHalfExactly) {
  std::vector<std::byte> bytes(1 + 2 * 65536);
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<uint16_t>(i);
    std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
  }
  const std::vector<float> from_f16 = RoundTrip(DType::kF16, bytes, 65536, DType::kF32);
  const std::vector<float> from_bf16 = RoundTrip(DType::kBF16, bytes, 65536, DType::kBF16);
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
}  // namespace strata::kernels::matmul_test
