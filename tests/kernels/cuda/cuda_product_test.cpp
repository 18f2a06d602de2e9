// Products of the CUDA backend against the oracle: every kernel, every way to store, gates, norms.

#include <span>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::cuda_product_test {
namespace {

struct Shape {
  int64_t outputs;
  int64_t inputs;
};

HostRows AsRows(const std::vector<float>& values, int64_t rows) {
  return {ElementType::kF32, reinterpret_cast<const std::byte*>(values.data()), rows,
          static_cast<int64_t>(values.size()) / rows};
}

using Param = std::tuple<MatrixFormat, Shape, bool /*batch_invariant*/>;
class CudaProductTest : public CudaTest, public ::testing::WithParamInterface<Param> {
 protected:
  MatrixFormat stored() const { return std::get<0>(GetParam()); }
  int64_t outputs() const { return std::get<1>(GetParam()).outputs; }
  int64_t inputs() const { return std::get<1>(GetParam()).inputs; }
  bool batch_invariant() const { return std::get<2>(GetParam()); }
  std::vector<float> Weights(uint32_t seed) const {
    return Random(seed).Normals(outputs() * inputs());
  }

  // The error of a sum of n products is at most n roundings of the sum of their sizes; matrix
  // instructions may lose four times as much, and keep some 13 bits in fp8. Inputs are rounded to
  // the weights' dtype.
  double Units() const {
    const double sums = static_cast<double>(inputs() + 2) * 4 * kUnit;
    return stored() == MatrixFormat::kF8 ? sums + 0x1p-12 : sums;
  }
  // Values after storage, row by row.
  std::vector<double> AsStored(const std::vector<float>& values) const {
    std::vector<double> all;
    for (size_t at = 0; at < values.size(); at += static_cast<size_t>(inputs())) {
      const std::vector<double> row = StoredRow(&values[at], inputs(), stored());
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  }
  struct Sum {
    double value = 0;
    double sizes = 0;
  };
  void ExpectOracle(std::span<const int64_t> row_counts);
  Sum ExactSum(const std::vector<double>& x, const std::vector<double>& w, int64_t i,
               int64_t j) const {
    Sum sum;
    for (int64_t k = 0; k < inputs(); ++k) {
      const double product =
          x[static_cast<size_t>(i * inputs() + k)] * w[static_cast<size_t>(j * inputs() + k)];
      sum.value += product;
      sum.sizes += std::abs(product);
    }
    return sum;
  }
};

constexpr int64_t kRowCounts[] = {1, 3, 8, 9, 40, 130};

void CudaProductTest::ExpectOracle(std::span<const int64_t> row_counts) {
  const std::vector<float> weights = Weights(1);
  const std::unique_ptr<Backend> backend = MakeCuda(batch_invariant());
  const int64_t cut = outputs() / 3;
  const HostRows all = AsRows(weights, outputs());
  const HostRows parts[] = {{all.type, all.data, cut, inputs()},
                            {all.type, all.data + cut * inputs() * 4, outputs() - cut, inputs()}};
  const std::unique_ptr<Matrix> w = *backend->Pack(parts, stored());
  const std::vector<double> exact_weights = AsStored(weights);
  for (const int64_t rows : row_counts) {
    SCOPED_TRACE(rows);
    const std::vector<float> values = Random(2).Normals(rows * inputs());
    const std::vector<double> exact_values = AsStored(values);
    BackendRows x(*backend, GuardedRows(rows, inputs(), values));
    BackendRows set(*backend, GuardedRows(rows, outputs(), 7.0f));
    BackendRows added(*backend, GuardedRows(rows, outputs(), 0.625f));
    backend->MatMul(*w, x.rows(), {}, set.rows(), Backend::Store::kSet);
    backend->MatMul(*w, x.rows(), {}, added.rows(), Backend::Store::kAdd);
    GuardedRows& out = set.Fetch();
    GuardedRows& sums = added.Fetch();
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < outputs(); ++j) {
        const Sum exact = ExactSum(exact_values, exact_weights, i, j);
        ASSERT_NEAR(out.at(i, j), exact.value, Units() * exact.sizes) << i << ", " << j;
        ASSERT_NEAR(sums.at(i, j), out.at(i, j) + 0.625f, kUnit * (exact.sizes + 1));
      }
    }
  }
}

TEST_P(CudaProductTest, MatchesOracleForAnyNumberOfRows) { ExpectOracle(kRowCounts); }

// Rows of inputs so long that the loops over them turn several times.
class CudaLongProductTest : public CudaProductTest {};
TEST_P(CudaLongProductTest, MatchesOracle) {
  constexpr int64_t kFew[] = {1, 8};
  ExpectOracle(kFew);
}

TEST_P(CudaProductTest, GatesAndNormsGoThroughTheSameProduct) {
  const std::vector<float> gates = Weights(3);
  const std::vector<float> ups = Weights(4);
  const std::vector<float> scale = Random(5).Normals(inputs());
  const std::unique_ptr<Backend> backend = MakeCuda(batch_invariant());
  const std::unique_ptr<Buffer> norm_weight = Upload(*backend, scale);
  const RmsNorm norm = {norm_weight->floats(), 1e-5f};
  const HostRows gate = AsRows(gates, outputs());
  const std::unique_ptr<Matrix> both = *backend->PackGated(gate, AsRows(ups, outputs()), stored());
  EXPECT_EQ(both->num_outputs(), 2 * outputs());
  const std::unique_ptr<Matrix> single = *backend->Pack({&gate, 1}, stored());
  const std::unique_ptr<Matrix> second =
      *backend->Pack(std::vector<HostRows>{AsRows(ups, outputs())}, stored());
  for (const int64_t rows : kRowCounts) {
    SCOPED_TRACE(rows);
    BackendRows x(*backend, GuardedRows(rows, inputs(), Random(6).Normals(rows * inputs())));
    BackendRows gated(*backend, GuardedRows(rows, outputs()));
    BackendRows gate_sums(*backend, GuardedRows(rows, outputs()));
    BackendRows up_sums(*backend, GuardedRows(rows, outputs()));
    backend->GatedMatMul(*both, x.rows(), norm, gated.rows());
    backend->MatMul(*single, x.rows(), norm, gate_sums.rows(), Backend::Store::kSet);
    backend->MatMul(*second, x.rows(), norm, up_sums.rows(), Backend::Store::kSet);
    GuardedRows& out = gated.Fetch();
    GuardedRows& g_sums = gate_sums.Fetch();
    GuardedRows& u_sums = up_sums.Fetch();
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < outputs(); ++j) {
        const double g = g_sums.at(i, j);
        const double expected = g / (1 + std::exp(-g)) * u_sums.at(i, j);
        // cuBLASLt may cut two products in another way than one.
        const double sizes = (1 + std::abs(g)) * (1 + std::abs(u_sums.at(i, j)));
        ASSERT_NEAR(out.at(i, j), expected, 8 * kUnit * std::abs(expected) + Units() * sizes)
            << i << ", " << j;
      }
    }
  }
}

TEST_P(CudaProductTest, ARowsBitsAreItsOwnWherePromised) {
  const std::vector<float> weights = Weights(7);
  const std::vector<float> scale = Random(8).Normals(inputs());
  // Any rows, or without batch invariance only rows of the backend's own kernels.
  const int64_t all_rows = batch_invariant() ? 70 : 8;
  const std::vector<float> values = Random(9).Normals(all_rows * inputs());
  const std::unique_ptr<Backend> backend = MakeCuda(batch_invariant());
  const std::unique_ptr<Buffer> norm_weight = Upload(*backend, scale);
  const RmsNorm norm = {norm_weight->floats(), 1e-5f};
  const HostRows rows = AsRows(weights, outputs());
  const std::unique_ptr<Matrix> w = *backend->Pack({&rows, 1}, stored());
  const std::unique_ptr<Matrix> gated = *backend->PackGated(rows, rows, stored());
  BackendRows x(*backend, GuardedRows(all_rows, inputs(), values));
  std::vector<float> expected;
  InEveryOrder([&] {
    for (const int64_t chunk : {all_rows, int64_t{33}, int64_t{9}, int64_t{3}, int64_t{1}}) {
      BackendRows out(*backend, GuardedRows(all_rows, outputs()));
      BackendRows gates(*backend, GuardedRows(all_rows, outputs()));
      for (int64_t i = 0; i < all_rows; i += chunk) {
        const int64_t count = std::min(chunk, all_rows - i);
        backend->MatMul(*w, x.row(i, count), norm, out.row(i, count), Backend::Store::kSet);
        backend->GatedMatMul(*gated, x.row(i, count), norm, gates.row(i, count));
      }
      std::vector<float> got = out.Fetch().Values();
      const std::vector<float> gate_values = gates.Fetch().Values();
      got.insert(got.end(), gate_values.begin(), gate_values.end());
      if (expected.empty()) expected = got;
      ExpectSameBits(expected, got, absl::StrCat("chunks of ", chunk));
    }
  });
}

TEST_P(CudaProductTest, EmbedGathersTheStoredRows) {
  const std::vector<float> weights = Weights(10);
  const std::unique_ptr<Backend> backend = MakeCuda();
  const HostRows rows = AsRows(weights, outputs());
  const std::unique_ptr<Matrix> table = *backend->Pack({&rows, 1}, stored());
  const std::unique_ptr<Matrix> gated = *backend->PackGated(rows, rows, stored());
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < outputs(); ++i) ids.push_back(static_cast<int32_t>(outputs()) - 1 - i);
  std::vector<int32_t> ups = ids;
  for (int32_t& id : ups) id += static_cast<int32_t>(outputs());
  BackendRows out(*backend, GuardedRows(outputs(), inputs()));
  BackendRows gates(*backend, GuardedRows(outputs(), inputs()));
  BackendRows second(*backend, GuardedRows(outputs(), inputs()));
  backend->Embed(*table, ids, out.rows());
  backend->Embed(*gated, ids, gates.rows());
  backend->Embed(*gated, ups, second.rows());
  GuardedRows& values = out.Fetch();
  const std::vector<double> expected = AsStored(weights);
  for (int64_t i = 0; i < outputs(); ++i) {
    for (int64_t k = 0; k < inputs(); ++k) {
      const auto at = static_cast<size_t>((outputs() - 1 - i) * inputs() + k);
      ASSERT_EQ(values.at(i, k), static_cast<float>(expected[at]));
    }
  }
  ExpectSameBits(values.Values(), gates.Fetch().Values(), "gates");
  ExpectSameBits(values.Values(), second.Fetch().Values(), "ups");
}

TEST_P(CudaProductTest, WhatIsNotFiniteSpoilsItsRowOnly) {
  constexpr int64_t kRows = 20;
  const std::vector<float> weights = Weights(11);
  std::vector<float> values = Random(12).Normals(kRows * inputs());
  const std::unique_ptr<Backend> backend = MakeCuda(batch_invariant());
  const HostRows rows = AsRows(weights, outputs());
  const std::unique_ptr<Matrix> w = *backend->Pack({&rows, 1}, stored());
  BackendRows clean(*backend, GuardedRows(kRows, outputs()));
  BackendRows out(*backend, GuardedRows(kRows, outputs()));
  BackendRows x(*backend, GuardedRows(kRows, inputs(), values));
  backend->MatMul(*w, x.rows(), {}, clean.rows(), Backend::Store::kSet);
  values[static_cast<size_t>(3 * inputs() + inputs() / 2)] = std::nanf("");
  values[static_cast<size_t>(4 * inputs())] = INFINITY;
  BackendRows bad(*backend, GuardedRows(kRows, inputs(), values));
  backend->MatMul(*w, bad.rows(), {}, out.rows(), Backend::Store::kSet);
  GuardedRows& expected = clean.Fetch();
  GuardedRows& got = out.Fetch();
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < outputs(); ++j) {
      if (i == 3 || i == 4) {
        EXPECT_FALSE(std::isfinite(got.at(i, j))) << i << ", " << j;
      } else {
        EXPECT_EQ(got.at(i, j), expected.at(i, j)) << i << ", " << j;
      }
    }
  }
}

std::string ParamName(const ::testing::TestParamInfo<Param>& test) {
  const auto& [stored, shape, batch_invariant] = test.param;
  return absl::StrCat(std::string(FormatName(stored)), "_", shape.outputs, "x", shape.inputs,
                      batch_invariant ? "_invariant" : "");
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaProductTest,
                         ::testing::Combine(::testing::Values(MatrixFormat::kF32,
                                                              MatrixFormat::kBF16),
                                            ::testing::Values(Shape{1, 1}, Shape{33, 255},
                                                              Shape{70, 257}, Shape{130, 576}),
                                            ::testing::Bool()),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(MoreDTypes, CudaProductTest,
                         ::testing::Combine(::testing::Values(MatrixFormat::kF16, MatrixFormat::kI8,
                                                              MatrixFormat::kF8),
                                            ::testing::Values(Shape{20, 321}), ::testing::Bool()),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(
    Long, CudaLongProductTest,
    ::testing::Combine(::testing::Values(MatrixFormat::kF32, MatrixFormat::kBF16,
                                         MatrixFormat::kF16, MatrixFormat::kI8, MatrixFormat::kF8),
                       ::testing::Values(Shape{20, 4160}, Shape{17, 4500}),
                       ::testing::Values(false)),
    ParamName);

using CudaPackTest = CudaTest;
// A checkpoint in any dtype, at any address, larger than the staging memory holds at once.
TEST_F(CudaPackTest, ConvertsEveryDTypeInPieces) {
  const std::unique_ptr<Backend> backend = MakeCuda();
  constexpr int64_t kRows = 2000;
  constexpr int64_t kCols = 1500;
  for (const ElementType from : {ElementType::kBF16, ElementType::kF16}) {
    std::vector<std::byte> bytes(1 + 2 * kRows * kCols);
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      const auto bits = static_cast<uint16_t>(0x3c00 + i % 512);  // near 1, exact in either
      std::memcpy(&bytes[static_cast<size_t>(1 + 2 * i)], &bits, 2);
    }
    const HostRows rows = {from, bytes.data() + 1, kRows, kCols};
    const std::unique_ptr<Matrix> matrix = *backend->Pack({&rows, 1}, MatrixFormat::kF32);
    const std::vector<int32_t> ids = {0, 1, 999, kRows - 1};
    BackendRows out(*backend, GuardedRows(4, kCols));
    backend->Embed(*matrix, ids, out.rows());
    GuardedRows& got = out.Fetch();
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t k = 0; k < kCols; ++k) {
        const auto bits =
            static_cast<uint32_t>(0x3c00 + (ids[static_cast<size_t>(i)] * kCols + k) % 512);
        const double expected = from == ElementType::kBF16
                                    ? double{std::bit_cast<float>(bits << 16)}
                                    : 1 + (bits - 0x3c00) / 1024.0;
        ASSERT_EQ(got.at(i, k), expected) << i << ", " << k;
      }
    }
  }
}

}  // namespace
}  // namespace strata::kernels::cuda_product_test
