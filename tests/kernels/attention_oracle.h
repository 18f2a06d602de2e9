#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/kernels/attention_testing.h"

// Attention by its definition, in double, for the kernels of every backend.
namespace strata::kernels {

// The keys and values of a request as the cache holds them: [context][kv head][head_dim].
struct StoredRequest {
  StoredRequest(const Inputs& inputs, CacheFormats dtypes, size_t request) {
    const int32_t dim = inputs.head_dim;
    for (int64_t p = 0; p < Requests()[request].context; ++p) {
      for (int64_t g = 0; g < kKvHeads; ++g) {
        const auto key = StoredRow(inputs.Key(request, p, g), dim, dtypes.keys);
        const auto value = StoredRow(inputs.Value(request, p, g), dim, dtypes.values);
        keys.insert(keys.end(), key.begin(), key.end());
        values.insert(values.end(), value.begin(), value.end());
      }
    }
  }
  std::vector<double> keys;
  std::vector<double> values;
};

// One query against the stored keys and values, in double.
struct Exact {
  std::vector<double> output;
  double lse;
  double score_error;  // bound on the error of a f32 score
  double largest;      // largest value read
};

inline Exact ExactAttention(const Inputs& inputs, const StoredRequest& stored, int64_t position,
                            int64_t row, int64_t head) {
  const int32_t dim = inputs.head_dim;
  const auto place = [&](int64_t p) { return (p * kKvHeads + KvHead(head)) * dim; };
  const float* q = inputs.Query(row, head);
  std::vector<double> scores;
  Exact exact{std::vector<double>(static_cast<size_t>(dim)), 0, 0, 0};
  for (int64_t p = 0; p <= position; ++p) {
    const double* k = stored.keys.data() + place(p);
    double score = 0;
    double sizes = 0;
    for (int32_t d = 0; d < dim; ++d) {
      score += q[d] * k[d];
      sizes += std::abs(q[d] * k[d]);
    }
    scores.push_back(score / std::sqrt(dim));
    // A chain of dim roundings, the product with the token's scale, then the rounded 1/sqrt(dim),
    // and the product with it.
    exact.score_error = std::max(exact.score_error, (dim + 4) * kUnit * sizes / std::sqrt(dim));
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - maximum);
  exact.lse = maximum + std::log(sum);
  for (int64_t p = 0; p <= position; ++p) {
    const double* v = stored.values.data() + place(p);
    const double weight = std::exp(scores[static_cast<size_t>(p)] - exact.lse);
    for (int32_t d = 0; d < dim; ++d) {
      exact.output[static_cast<size_t>(d)] += weight * v[d];
      exact.largest = std::max(exact.largest, std::abs(v[d]));
    }
  }
  return exact;
}

// A kernel's roundings besides its sums in f32.
struct Rounding {
  double sums = 1;     // cost of an addition of the hardware, in roundings of a sum
  double weights = 0;  // relative error of the values' weights
};

// With e the error of a score, a probability is off by a factor within exp(+-2e) (its own score and
// the sum's), and by a few roundings: subtracting the maximum (scores here stay below 32, so at
// most 16 units each), exp (4 units), the sum's and the chain's up to 256 additions of a span, the
// product with the value's scale and the merges. Weights sum to 1, so the output is off by that
// factor times the largest value.
inline void ExpectClose(const Inputs& inputs, CacheFormats dtypes, const Outputs& actual,
                        const Rounding& rounding = {}) {
  int64_t row = 0;
  for (size_t i = 0; i < Requests().size(); ++i) {
    const auto [context, rows] = Requests()[i];
    const StoredRequest stored(inputs, dtypes, i);
    for (int64_t r = 0; r < rows; ++r, ++row) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const Exact exact = ExactAttention(inputs, stored, context - rows + r, row, h);
        const double factor =
            rounding.sums * (2 * exact.score_error + (2 * 16 + 2 * 4 + 2 * 256 + 20) * kUnit);
        const auto at = static_cast<size_t>(row * kHeads + h);
        ASSERT_NEAR(actual.lse[at], exact.lse, factor + std::abs(exact.lse) * kUnit);
        for (int32_t d = 0; d < inputs.head_dim; ++d) {
          ASSERT_NEAR(
              actual.output[at * static_cast<size_t>(inputs.head_dim) + static_cast<size_t>(d)],
              exact.output[static_cast<size_t>(d)], (factor + rounding.weights) * exact.largest)
              << "request " << i << " row " << r << " head " << h << " dimension " << d;
        }
      }
    }
  }
}

}  // namespace strata::kernels
