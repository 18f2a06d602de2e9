#include <functional>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::elementwise_test {
namespace {

constexpr int64_t kRows = 3;
const std::vector<int64_t> kWidths = {1, 7, 8, 15, 16, 17, 31, 33, 64, 576, 1001};

// Runs `operation` (which fills fresh rows) for each instruction set and number of threads, checks
// that all give the same bits, and returns them.
std::vector<float> SameEverywhere(int64_t width,
                                  const std::function<void(Backend&, GuardedRows&)>& operation) {
  std::vector<float> reference;
  for (const int32_t threads : {1, 3}) {
    const std::unique_ptr<Backend> backend = MakeCpu(threads);
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      GuardedRows out(kRows, width);
      operation(*backend, out);
      out.ExpectMarksIntact();
      if (reference.empty()) reference = out.Values();
      ExpectSameBits(reference, out.Values(), hwy::TargetName(target));
    }
  }
  return reference;
}

TEST(RmsNormTest, MatchesOracle) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    GuardedRows x(kRows, width, Random(1).Normals(kRows * width));
    const std::vector<float> weight = Random(2).Normals(width);
    const std::vector<float> out = SameEverywhere(width, [&](Backend& backend, GuardedRows& to) {
      backend.RmsNorm(x.rows(), weight.data(), 1e-5f, to.rows());
    });
    for (int64_t i = 0; i < kRows; ++i) {
      double squares = 0;
      for (int64_t j = 0; j < width; ++j) squares += double{x.at(i, j)} * double{x.at(i, j)};
      const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + double{1e-5f});
      for (int64_t j = 0; j < width; ++j) {
        const double expected = x.at(i, j) * scale * double{weight[static_cast<size_t>(j)]};
        // A lane's chain has width / 16 roundings, the tree 4; the root halves their error. Then
        // division, root, reciprocal and two products round.
        const double units = static_cast<double>(width) / 32 + 2 + 6;
        ASSERT_NEAR(out[static_cast<size_t>(i * width + j)], expected,
                    units * kUnit * std::abs(expected));
      }
    }
  }
}

TEST(SwiGluTest, MatchesOracle) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    GuardedRows x(kRows, 2 * width, Random(3).Normals(kRows * 2 * width, 8.0f));
    const std::vector<float> out = SameEverywhere(
        width, [&](Backend& backend, GuardedRows& to) { backend.SwiGlu(x.rows(), to.rows()); });
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        const double gate = x.at(i, j);
        const double expected = gate / (1 + std::exp(-gate)) * x.at(i, j + width);
        // exp is within 4 half units, and an addition, a division and a product round.
        ASSERT_NEAR(out[static_cast<size_t>(i * width + j)], expected,
                    7 * kUnit * std::abs(expected));
      }
    }
  }
}

TEST(SwiGluTest, ExtremeGates) {
  const std::vector<float> gates = {200, 89, 88, -80, -88, -89, -200, INFINITY, NAN, 0};
  const auto width = static_cast<int64_t>(gates.size());
  std::vector<float> x = gates;
  x.resize(gates.size() * 2, 1.0f);
  GuardedRows in(1, 2 * width, x);
  for (const int64_t target : AllTargets()) {
    const std::unique_ptr<Backend> backend = MakeCpu(1);
    const ScopedTarget scoped(target);
    GuardedRows out(1, width);
    backend->SwiGlu(in.rows(), out.rows());
    for (const int64_t j : {0, 1, 2, 7}) EXPECT_EQ(out.at(0, j), gates[static_cast<size_t>(j)]);
    for (const int64_t j : {3, 4, 5, 6}) EXPECT_NEAR(out.at(0, j), 0.0f, 1e-30f);
    EXPECT_TRUE(std::isnan(out.at(0, 8)));
    EXPECT_EQ(out.at(0, 9), 0.0f);
  }
}

TEST(RopeTest, TurnsEveryHeadByItsPosition) {
  for (const int32_t head_dim : {2, 8, 20, 64, 80}) {
    SCOPED_TRACE(head_dim);
    const int64_t width = 3 * head_dim;
    const std::vector<int32_t> positions = {5, 0, 11};
    const std::vector<float> table = Random(4).Normals(12 * head_dim);
    const std::vector<float> x = Random(5).Normals(kRows * width);
    const std::vector<float> out = SameEverywhere(width, [&](Backend& backend, GuardedRows& rows) {
      rows = GuardedRows(kRows, width, x);
      backend.Rope(rows.rows(), head_dim, positions, table.data());
    });
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < kRows * width; ++i) {
      const int64_t j = i % head_dim;
      const auto angle =
          static_cast<size_t>(positions[static_cast<size_t>(i / width)] * head_dim + j % half);
      const double cosine = table[angle];
      const double sine = table[angle + static_cast<size_t>(half)];
      const double own = x[static_cast<size_t>(i)];
      const double partner = x[static_cast<size_t>(j < half ? i + half : i - half)];
      const double expected = own * cosine + (j < half ? -partner : partner) * sine;
      const double sizes = std::abs(own * cosine) + std::abs(partner * sine);
      ASSERT_NEAR(out[static_cast<size_t>(i)], expected, 2 * kUnit * sizes);
    }
  }
}

TEST(MixValuesTest, WeighsOwnAndFirst) {
  for (const int64_t width : kWidths) {
    const std::vector<float> v = Random(6).Normals(kRows * width);
    GuardedRows first(kRows, width, Random(7).Normals(kRows * width));
    const std::vector<float> out = SameEverywhere(width, [&](Backend& backend, GuardedRows& rows) {
      rows = GuardedRows(kRows, width, v);
      backend.MixValues(rows.rows(), first.rows(), 0.3f, 1.7f);
    });
    for (int64_t i = 0; i < kRows * width; ++i) {
      const double own = double{0.3f} * v[static_cast<size_t>(i)];
      const double other = double{1.7f} * first.at(i / width, i % width);
      ASSERT_NEAR(out[static_cast<size_t>(i)], own + other,
                  2 * kUnit * (std::abs(own) + std::abs(other)));
    }
  }
}

TEST(GatherRowsTest, CopiesRows) {
  GuardedRows x(5, 7, Random(8).Normals(35));
  const std::vector<int32_t> rows = {4, 0, 4};
  const std::vector<float> out = SameEverywhere(
      7, [&](Backend& backend, GuardedRows& to) { backend.GatherRows(x.rows(), rows, to.rows()); });
  for (int64_t i = 0; i < 21; ++i) {
    ASSERT_EQ(out[static_cast<size_t>(i)], x.at(rows[static_cast<size_t>(i / 7)], i % 7));
  }
}

// Rows that are enough for several threads come out as they do alone.
TEST(RowsTest, BitsDoNotDependOnOtherRows) {
  constexpr int64_t kMany = 300;
  constexpr int64_t kWidth = 130;
  GuardedRows x(kMany, 2 * kWidth, Random(9).Normals(kMany * 2 * kWidth));
  const std::vector<float> weight = Random(10).Normals(2 * kWidth);
  const std::unique_ptr<Backend> backend = MakeCpu(3);
  GuardedRows norms(kMany, 2 * kWidth);
  GuardedRows norms_alone(kMany, 2 * kWidth);
  GuardedRows gated(kMany, kWidth);
  GuardedRows gated_alone(kMany, kWidth);
  backend->RmsNorm(x.rows(), weight.data(), 1e-6f, norms.rows());
  backend->SwiGlu(x.rows(), gated.rows());
  for (int64_t i = 0; i < kMany; ++i) {
    backend->RmsNorm(x.row(i), weight.data(), 1e-6f, norms_alone.row(i));
    backend->SwiGlu(x.row(i), gated_alone.row(i));
  }
  ExpectSameBits(norms_alone.Values(), norms.Values(), "RmsNorm");
  ExpectSameBits(gated_alone.Values(), gated.Values(), "SwiGlu");
}

}  // namespace
}  // namespace strata::kernels::elementwise_test
