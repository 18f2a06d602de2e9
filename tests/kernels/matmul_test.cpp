#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::matmul_test {
namespace {

struct Shape {
  int64_t outputs;
  int64_t inputs;
};

// `count` numbers in 8 bits: q * scale, by the definition.
struct Quantised {
  float scale = 0;
  std::vector<double> q;
};

// Weights: one scale for all; each is divided by it.
Quantised QuantisedWeights(const float* w, int64_t count) {
  Quantised result;
  float most = 0;
  for (int64_t k = 0; k < count; ++k) most = std::max(most, std::abs(w[k]));
  result.scale = most / 127;
  for (int64_t k = 0; k < count; ++k) result.q.push_back(std::nearbyint(w[k] / result.scale));
  return result;
}

// A block of a row's inputs; each is multiplied by the inverse, in double exactly.
Quantised QuantisedInputs(const float* x, int64_t count) {
  Quantised result;
  float most = 0;
  for (int64_t k = 0; k < count; ++k) most = std::max(most, std::abs(x[k]));
  result.scale = most / 127;
  const float inverse = 127 / most;
  for (int64_t k = 0; k < count; ++k)
    result.q.push_back(std::nearbyint(double{x[k]} * double{inverse}));
  return result;
}

class MatMulTest : public testing::TestWithParam<std::tuple<MatrixFormat, Shape>> {
 protected:
  MatrixFormat stored() const { return std::get<0>(GetParam()); }
  int64_t outputs() const { return std::get<1>(GetParam()).outputs; }
  int64_t inputs() const { return std::get<1>(GetParam()).inputs; }

  MatMulTest() : weights_(Random(1).Normals(outputs() * inputs())) {}

  std::unique_ptr<Matrix> Pack(Backend& backend) {
    const std::vector<std::byte> bytes = Bytes(weights_, ElementType::kF32);
    // Two parts, cut anywhere.
    const int64_t cut = outputs() / 3;
    const std::byte* data = bytes.data() + 1;
    const std::vector<HostRows> parts = {
        {ElementType::kF32, data, cut, inputs()},
        {ElementType::kF32, data + cut * inputs() * 4, outputs() - cut, inputs()}};
    auto packed = backend.Pack(parts, stored());
    EXPECT_TRUE(packed.ok());
    return *std::move(packed);
  }

  // The error of a chain of n fused multiply-adds is at most n units of the sum of its products'
  // sizes, and adding blocks adds one unit each; kAdd adds one more rounding. Inputs are rounded to
  // the weights' dtype.
  void ExpectClose(const std::vector<float>& x, const std::vector<float>& out, int64_t rows) {
    const double units = static_cast<double>(std::min<int64_t>(inputs(), 256) + inputs() / 256 + 2);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < outputs(); ++j) {
        double sum = 0;
        double sizes = 0;
        for (int64_t k = 0; k < inputs(); ++k) {
          const double product =
              double{Stored(x[static_cast<size_t>(i * inputs() + k)], stored())} *
              double{Stored(weights_[static_cast<size_t>(j * inputs() + k)], stored())};
          sum += product;
          sizes += std::abs(product);
        }
        ASSERT_NEAR(out[static_cast<size_t>(i * outputs() + j)], sum, units * kUnit * sizes)
            << "row " << i << " column " << j;
      }
    }
  }

  // In 8 bits the sums of a block are exact, each is scaled and added with one rounding, and then
  // the output's scale is multiplied in. The difference to the product of unrounded numbers is half
  // a step of each weight times its input, and half a step of each input times its weight.
  void ExpectCloseInt8(const std::vector<float>& x, const std::vector<float>& out, int64_t rows) {
    const double units = static_cast<double>(inputs() / 256 + 3);
    for (int64_t j = 0; j < outputs(); ++j) {
      const float* weights = &weights_[static_cast<size_t>(j * inputs())];
      const Quantised w = QuantisedWeights(weights, inputs());
      for (int64_t i = 0; i < rows; ++i) {
        double sum = 0;
        double sizes = 0;
        double unrounded = 0;
        double steps = 0;
        for (int64_t begin = 0; begin < inputs(); begin += 256) {
          const int64_t count = std::min<int64_t>(256, inputs() - begin);
          const float* numbers = &x[static_cast<size_t>(i * inputs() + begin)];
          const Quantised q = QuantisedInputs(numbers, count);
          double block = 0;
          for (int64_t k = 0; k < count; ++k) {
            const double weight = weights[begin + k];
            block += q.q[static_cast<size_t>(k)] * w.q[static_cast<size_t>(begin + k)];
            unrounded += numbers[k] * weight;
            steps += 0.5 * w.scale * std::abs(numbers[k]) +
                     0.5 * q.scale * (std::abs(weight) + 0.5 * w.scale);
          }
          sum += block * q.scale * w.scale;
          sizes += std::abs(block) * q.scale * w.scale;
        }
        const double got = out[static_cast<size_t>(i * outputs() + j)];
        ASSERT_NEAR(got, sum, units * kUnit * sizes) << "row " << i << " column " << j;
        ASSERT_NEAR(got, unrounded, 1.001 * steps) << "row " << i << " column " << j;
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
        backend->MatMul(*w, in.rows(), {}, out.rows(), Backend::Store::kSet);
        out.ExpectMarksIntact();
        if (reference.empty()) {
          reference = out.Values();
          if (stored() == MatrixFormat::kI8) {
            ExpectCloseInt8(x, reference, rows);
          } else {
            ExpectClose(x, reference, rows);
          }
        }
        const auto count = static_cast<int64_t>(rows * outputs());
        ExpectSameBits({reference.begin(), reference.begin() + count}, out.Values(), "kSet");
        GuardedRows added(rows, outputs(), 0.625f);
        backend->MatMul(*w, in.rows(), {}, added.rows(), Backend::Store::kAdd);
        added.ExpectMarksIntact();
        std::vector<float> expected(reference.begin(), reference.begin() + count);
        for (float& value : expected) value += 0.625f;
        ExpectSameBits(expected, added.Values(), "kAdd");
      }
    }
  }
}

TEST_P(MatMulTest, ManyRowsAreTheRowsOneByOne) {
  constexpr int64_t kRows = 600;  // several blocks of rows
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::unique_ptr<Matrix> w = Pack(*backend);
  GuardedRows x(kRows, inputs(), Random(3).Normals(kRows * inputs()));
  GuardedRows together(kRows, outputs());
  GuardedRows alone(kRows, outputs());
  backend->MatMul(*w, x.rows(), {}, together.rows(), Backend::Store::kSet);
  for (int64_t i = 0; i < kRows; ++i) {
    backend->MatMul(*w, x.row(i), {}, alone.row(i), Backend::Store::kSet);
  }
  ExpectSameBits(alone.Values(), together.Values(), "rows alone against rows together");
  EXPECT_EQ(backend->counters().matrix_products, 1 + kRows);
}

// One product of gates and ups is two products, and silu(gate) * up of their results.
TEST_P(MatMulTest, GatedIsTwoProducts) {
  constexpr int64_t kRows = 30;
  const std::vector<float> ups = Random(6).Normals(outputs() * inputs());
  const std::vector<std::byte> gate_bytes = Bytes(weights_, ElementType::kF32);
  const std::vector<std::byte> up_bytes = Bytes(ups, ElementType::kF32);
  const HostRows gate = {ElementType::kF32, gate_bytes.data() + 1, outputs(), inputs()};
  const HostRows up = {ElementType::kF32, up_bytes.data() + 1, outputs(), inputs()};
  // Gates stay in the range in which exp is exact enough to differ from its limits.
  const float scale = 4 / std::sqrt(static_cast<float>(inputs()));
  GuardedRows x(kRows, inputs(), Random(7).Normals(kRows * inputs(), scale));
  std::vector<float> reference;
  for (const int32_t threads : {1, 3}) {
    const std::unique_ptr<Backend> backend = MakeCpu(threads);
    const auto gates = *backend->Pack({&gate, 1}, stored());
    const auto both = *backend->PackGated(gate, up, stored());
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      SCOPED_TRACE(absl::StrCat(hwy::TargetName(target), ", ", threads, " threads"));
      GuardedRows out(kRows, outputs());
      backend->GatedMatMul(*both, x.rows(), {}, out.rows());
      out.ExpectMarksIntact();
      if (reference.empty()) reference = out.Values();
      ExpectSameBits(reference, out.Values(), "gated");
      GuardedRows alone(kRows, outputs());
      for (int64_t i = 0; i < kRows; ++i) {
        backend->GatedMatMul(*both, x.row(i), {}, alone.row(i));
      }
      ExpectSameBits(reference, alone.Values(), "rows alone");
    }
    const auto second = *backend->Pack({&up, 1}, stored());
    GuardedRows gate_sums(kRows, outputs());
    GuardedRows up_sums(kRows, outputs());
    backend->MatMul(*gates, x.rows(), {}, gate_sums.rows(), Backend::Store::kSet);
    backend->MatMul(*second, x.rows(), {}, up_sums.rows(), Backend::Store::kSet);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < outputs(); ++j) {
        const double g = gate_sums.at(i, j);
        const double expected = g / (1 + std::exp(-g)) * up_sums.at(i, j);
        // exp is within 4 half units, and an addition, a division and a product round.
        ASSERT_NEAR(reference[static_cast<size_t>(i * outputs() + j)], expected,
                    7 * kUnit * std::abs(expected) + 0x1p-149)
            << "row " << i << " column " << j;
      }
    }
  }
}

TEST_P(MatMulTest, GatedEmbedsItsGatesThenItsUps) {
  const std::vector<std::byte> bytes = Bytes(weights_, ElementType::kF32);
  const int64_t half = outputs() / 2;
  if (half == 0) return;
  const HostRows gate = {ElementType::kF32, bytes.data() + 1, half, inputs()};
  const HostRows up = {ElementType::kF32, bytes.data() + 1 + half * inputs() * 4, half, inputs()};
  const HostRows parts[] = {gate, up};
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  std::vector<int32_t> ids(static_cast<size_t>(2 * half));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  GuardedRows stacked(2 * half, inputs());
  GuardedRows gated(2 * half, inputs());
  backend->Embed(**backend->Pack(parts, stored()), ids, stacked.rows());
  backend->Embed(**backend->PackGated(gate, up, stored()), ids, gated.rows());
  ExpectSameBits(stacked.Values(), gated.Values(), "rows");
}

TEST_P(MatMulTest, NormalisesItsInputs) {
  constexpr int64_t kRows = 30;
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::unique_ptr<Matrix> w = Pack(*backend);
  const std::unique_ptr<Matrix> identity = Identity(*backend, inputs());
  const std::vector<float> scale = Random(8).Normals(inputs());
  const RmsNorm norm = {scale.data(), 1e-5f};
  GuardedRows x(kRows, inputs(), Random(9).Normals(kRows * inputs()));
  GuardedRows normed(kRows, inputs());
  backend->MatMul(*identity, x.rows(), norm, normed.rows(), Backend::Store::kSet);
  GuardedRows expected(kRows, outputs());
  backend->MatMul(*w, normed.rows(), {}, expected.rows(), Backend::Store::kSet);
  GuardedRows out(kRows, outputs());
  backend->MatMul(*w, x.rows(), norm, out.rows(), Backend::Store::kSet);
  ExpectSameBits(expected.Values(), out.Values(), "normalised");
}

TEST_P(MatMulTest, EmbedGathersTheStoredRows) {
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::unique_ptr<Matrix> table = Pack(*backend);
  const std::vector<int32_t> ids = {static_cast<int32_t>(outputs() - 1), 0, 0};
  GuardedRows out(3, inputs());
  backend->Embed(*table, ids, out.rows());
  out.ExpectMarksIntact();
  for (int64_t i = 0; i < 3; ++i) {
    const auto first = static_cast<size_t>(ids[static_cast<size_t>(i)] * inputs());
    const Quantised row = QuantisedWeights(&weights_[first], inputs());
    for (int64_t k = 0; k < inputs(); ++k) {
      const auto at = static_cast<size_t>(k);
      ASSERT_EQ(out.at(i, k), stored() == MatrixFormat::kI8
                                  ? static_cast<float>(row.q[at]) * row.scale
                                  : Stored(weights_[first + at], stored()));
    }
  }
}

// A number that is not finite spoils only its own row, or its own output; zeros give zeros.
TEST_P(MatMulTest, NaNInfinityAndZeroKeepToThemselves) {
  constexpr int64_t kRows = 30;
  const float infinity = std::numeric_limits<float>::infinity();
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const std::vector<float> values = Random(5).Normals(kRows * inputs());
  const std::unique_ptr<Matrix> sound = Pack(*backend);
  const std::vector<float> weights = weights_;
  const int64_t bad_output = outputs() / 2;
  weights_[static_cast<size_t>(bad_output * inputs() + inputs() - 1)] = -infinity;
  const std::unique_ptr<Matrix> unsound = Pack(*backend);
  weights_ = weights;
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    SCOPED_TRACE(hwy::TargetName(target));
    GuardedRows x(kRows, inputs(), values);
    GuardedRows clean(kRows, outputs());
    backend->MatMul(*sound, x.rows(), {}, clean.rows(), Backend::Store::kSet);
    x.at(3, inputs() / 2) = std::numeric_limits<float>::quiet_NaN();
    x.at(4, 0) = infinity;
    for (int64_t k = 0; k < inputs(); ++k) {
      x.at(7, k) = 0;
      x.at(8, k) *= 0x1p-130F;
    }
    GuardedRows out(kRows, outputs());
    backend->MatMul(*sound, x.rows(), {}, out.rows(), Backend::Store::kSet);
    GuardedRows of_unsound(kRows, outputs());
    backend->MatMul(*unsound, x.rows(), {}, of_unsound.rows(), Backend::Store::kSet);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < outputs(); ++j) {
        SCOPED_TRACE(absl::StrCat("row ", i, " column ", j));
        if (i == 3 || i == 4) {
          EXPECT_FALSE(std::isfinite(out.at(i, j)));
        } else if (i == 7 || i == 8) {
          EXPECT_NEAR(out.at(i, j), 0, 0x1p-110);
        } else {
          EXPECT_EQ(out.at(i, j), clean.at(i, j));
        }
        if (j == bad_output) {
          EXPECT_FALSE(std::isfinite(of_unsound.at(i, j)));
        } else if (i != 3 && i != 4) {
          EXPECT_EQ(of_unsound.at(i, j), out.at(i, j));
        }
      }
    }
  }
}

std::string ParamName(const testing::TestParamInfo<MatMulTest::ParamType>& test) {
  const auto& [stored, shape] = test.param;
  return absl::StrCat(std::string(FormatName(stored)), "_", shape.outputs, "x", shape.inputs);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MatMulTest,
    testing::Combine(testing::Values(MatrixFormat::kF32, MatrixFormat::kBF16, MatrixFormat::kI8),
                     testing::Values(Shape{1, 1}, Shape{31, 5}, Shape{33, 255}, Shape{32, 256},
                                     Shape{70, 257}, Shape{192, 576}, Shape{5, 1300})),
    ParamName);

}  // namespace
}  // namespace strata::kernels::matmul_test
