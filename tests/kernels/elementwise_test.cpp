#include <functional>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::elementwise_test {
namespace {

constexpr int64_t kRows = 3;
const std::vector<int64_t> kWidths = {1, 7, 8, 15, 16, 17, 31, 33, 64, 576, 1001};
const std::vector<int64_t> kHeadDims = {1, 7, 8, 15, 16, 17, 31, 33, 64, 256};

// The heads of all rows, with a way that does nothing.
std::vector<HeadWay> WaysOf(GuardedRows& rows, int64_t head_dim) {
  std::vector<HeadWay> ways;
  for (int64_t column = 0; column < rows.rows().num_cols; column += head_dim) {
    ways.push_back({.data = rows.rows().data + column,
                    .stride = rows.rows().stride,
                    .head_dim = static_cast<int32_t>(head_dim)});
  }
  return ways;
}

void Mix(ConstRows first_values, HeadWay* way) {
  way->first_values = first_values.data;
  way->first_stride = first_values.stride;
  way->own = 0.3f;
  way->first = 1.7f;
}

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
      backend.MatMul(*Identity(backend, width), x.rows(), {weight.data(), 1e-5f}, to.rows(),
                     Backend::Store::kSet);
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

TEST(GatedMatMulTest, ExtremeGates) {
  const std::vector<float> gates = {200, 89, 88, -80, -88, -89, -200, INFINITY, NAN, 0};
  const std::vector<float> ups(gates.size(), 1.0f);
  const auto width = static_cast<int64_t>(gates.size());
  const auto column = [width](const std::vector<float>& values) {
    return HostRows{ElementType::kF32, reinterpret_cast<const std::byte*>(values.data()), width, 1};
  };
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  const std::unique_ptr<Matrix> both =
      *backend->PackGated(column(gates), column(ups), MatrixFormat::kF32);
  GuardedRows in(1, 1, 1.0f);
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    GuardedRows out(1, width);
    backend->GatedMatMul(*both, in.rows(), {}, out.rows());
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
      std::vector<HeadWay> ways = WaysOf(rows, head_dim);
      for (HeadWay& way : ways) {
        way.rotated = head_dim;
        way.rope_table = table.data();
      }
      backend.PrepareAttention({}, {.num_rows = kRows, .ways = ways, .positions = positions});
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
  for (const int64_t width : kHeadDims) {
    const std::vector<float> v = Random(6).Normals(kRows * width);
    GuardedRows first(kRows, width, Random(7).Normals(kRows * width));
    const std::vector<float> out = SameEverywhere(width, [&](Backend& backend, GuardedRows& rows) {
      rows = GuardedRows(kRows, width, v);
      std::vector<HeadWay> ways = WaysOf(rows, width);
      Mix(first.rows(), &ways[0]);
      backend.PrepareAttention({}, {.num_rows = kRows, .ways = ways});
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

TEST(BiasTest, IsAddedToEveryRow) {
  for (const int64_t width : kHeadDims) {
    const std::vector<float> x = Random(12).Normals(kRows * width);
    const std::vector<float> bias = Random(13).Normals(width);
    const std::vector<float> out = SameEverywhere(width, [&](Backend& backend, GuardedRows& rows) {
      rows = GuardedRows(kRows, width, x);
      std::vector<HeadWay> ways = WaysOf(rows, width);
      ways[0].bias = bias.data();
      backend.PrepareAttention({}, {.num_rows = kRows, .ways = ways});
    });
    for (int64_t i = 0; i < kRows * width; ++i) {
      ASSERT_EQ(out[static_cast<size_t>(i)],
                x[static_cast<size_t>(i)] + bias[static_cast<size_t>(i % width)]);
    }
  }
}

// Each head is divided by its own root mean square.
TEST(HeadNormTest, MatchesOracle) {
  for (const int64_t head_dim : kHeadDims) {
    const int64_t width = 3 * head_dim;
    const std::vector<float> x = Random(14).Normals(kRows * width);
    const std::vector<float> weight = Random(15).Normals(head_dim);
    const std::vector<float> out = SameEverywhere(width, [&](Backend& backend, GuardedRows& rows) {
      rows = GuardedRows(kRows, width, x);
      std::vector<HeadWay> ways = WaysOf(rows, head_dim);
      for (HeadWay& way : ways) way.norm = {weight.data(), 1e-5f};
      backend.PrepareAttention({}, {.num_rows = kRows, .ways = ways});
    });
    for (int64_t begin = 0; begin < kRows * width; begin += head_dim) {
      double squares = 0;
      for (int64_t j = begin; j < begin + head_dim; ++j) {
        squares += double{x[static_cast<size_t>(j)]} * double{x[static_cast<size_t>(j)]};
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(head_dim) + double{1e-5f});
      for (int64_t j = 0; j < head_dim; ++j) {
        const double expected =
            x[static_cast<size_t>(begin + j)] * scale * double{weight[static_cast<size_t>(j)]};
        const double units = static_cast<double>(head_dim) / 32 + 2 + 6;  // as in RmsNormTest
        ASSERT_NEAR(out[static_cast<size_t>(begin + j)], expected,
                    units * kUnit * std::abs(expected));
      }
    }
  }
}

// Bias, norm, rotation of a part of the head, mix, in this order: one call gives the bits of four.
TEST(HeadWayTest, RunsItsStepsInOrder) {
  constexpr int64_t kDim = 26;
  constexpr int32_t kRotated = 10;
  const std::vector<int32_t> positions = {5, 0, 11};
  const std::vector<float> x = Random(16).Normals(kRows * kDim);
  const std::vector<float> bias = Random(17).Normals(kDim);
  const std::vector<float> weight = Random(18).Normals(kDim);
  const std::vector<float> table = Random(19).Normals(12 * kRotated);
  GuardedRows first(kRows, kDim, Random(20).Normals(kRows * kDim));
  const auto set = [&](int step, HeadWay* way) {
    if (step == 0) way->bias = bias.data();
    if (step == 1) way->norm = {weight.data(), 1e-5f};
    if (step == 2) {
      way->rotated = kRotated;
      way->rope_table = table.data();
    }
    if (step == 3) Mix(first.rows(), way);
  };
  const std::vector<float> together =
      SameEverywhere(kDim, [&](Backend& backend, GuardedRows& rows) {
        rows = GuardedRows(kRows, kDim, x);
        std::vector<HeadWay> ways = WaysOf(rows, kDim);
        for (int step = 0; step < 4; ++step) set(step, &ways[0]);
        backend.PrepareAttention({}, {.num_rows = kRows, .ways = ways, .positions = positions});
      });
  const std::vector<float> apart = SameEverywhere(kDim, [&](Backend& backend, GuardedRows& rows) {
    rows = GuardedRows(kRows, kDim, x);
    for (int step = 0; step < 4; ++step) {
      std::vector<HeadWay> ways = WaysOf(rows, kDim);
      set(step, &ways[0]);
      backend.PrepareAttention({}, {.num_rows = kRows, .ways = ways, .positions = positions});
    }
  });
  ExpectSameBits(apart, together, "the steps of a way");
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NE(together[i], x[i]);
}

// Rows in a call for several threads have the same bits as alone.
TEST(RowsTest, BitsDoNotDependOnOtherRows) {
  constexpr int64_t kMany = 300;
  constexpr int64_t kHeadDim = 26;
  constexpr int64_t kWidth = 5 * kHeadDim;
  const std::vector<float> x = Random(9).Normals(kMany * kWidth);
  const std::vector<float> table = Random(10).Normals(kMany * kHeadDim);
  GuardedRows first(kMany, kWidth, Random(11).Normals(kMany * kWidth));
  std::vector<int32_t> positions;
  for (int32_t i = 0; i < kMany; ++i) positions.push_back(kMany - 1 - i);
  const std::unique_ptr<Backend> backend = MakeCpu(3);
  const auto prepare = [&](GuardedRows& rows, int64_t begin, int64_t count) {
    std::vector<HeadWay> ways;
    for (int64_t column = 0; column < kWidth; column += kHeadDim) {
      const Rows head = rows.row(begin, count).Columns(column, kHeadDim);
      HeadWay& way = ways.emplace_back(HeadWay{.data = head.data,
                                               .stride = head.stride,
                                               .head_dim = kHeadDim,
                                               .rotated = kHeadDim,
                                               .rope_table = table.data()});
      Mix(first.row(begin, count).Columns(column, kHeadDim), &way);
    }
    backend->PrepareAttention({}, {.num_rows = count,
                                   .ways = ways,
                                   .positions = std::span(positions).subspan(
                                       static_cast<size_t>(begin), static_cast<size_t>(count))});
  };
  GuardedRows together(kMany, kWidth, x);
  GuardedRows alone(kMany, kWidth, x);
  prepare(together, 0, kMany);
  for (int64_t i = 0; i < kMany; ++i) prepare(alone, i, 1);
  ExpectSameBits(alone.Values(), together.Values(), "PrepareAttention");
}

}  // namespace
}  // namespace strata::kernels::elementwise_test
