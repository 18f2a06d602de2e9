#include <functional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels {
namespace {

constexpr int64_t kHeads = 5;  // read kv heads 0 0 0 1 1
constexpr int64_t kKvHeads = 2;
constexpr int64_t KvHead(int64_t head) { return head / 3; }

// A run of tokens: positions [0, context) are in the cache, the last `rows` of them are queried.
struct Request {
  int64_t context;
  int64_t rows;
};

// Contexts within a span, at its borders and over several; single rows, and chunks that cross one.
const std::vector<Request>& Requests() {
  static const std::vector<Request> requests = {{1, 1},    {37, 37}, {256, 1},
                                                {257, 30}, {700, 1}, {530, 2}};
  return requests;
}

// The same keys, values and queries for every layout of the cache.
struct Inputs {
  explicit Inputs(int32_t dim) : head_dim(dim) {
    Random random(7);
    for (const Request& request : Requests()) {
      keys.push_back(random.Normals(request.context * kKvHeads * dim));
      values.push_back(random.Normals(request.context * kKvHeads * dim));
      total_rows += request.rows;
    }
    queries = random.Normals(total_rows * kHeads * dim, 2.0f);
  }
  // [head_dim] at a position of a request
  const float* Key(size_t request, int64_t position, int64_t kv_head) const {
    return keys[request].data() + (position * kKvHeads + kv_head) * head_dim;
  }
  const float* Value(size_t request, int64_t position, int64_t kv_head) const {
    return values[request].data() + (position * kKvHeads + kv_head) * head_dim;
  }
  const float* Query(int64_t row, int64_t head) const {
    return queries.data() + (row * kHeads + head) * head_dim;
  }

  int32_t head_dim;
  int64_t total_rows = 0;
  std::vector<std::vector<float>> keys;  // of each request: [context][kv head][head_dim]
  std::vector<std::vector<float>> values;
  std::vector<float> queries;  // [row][head][head_dim]
};

// Blocks in random order, holding the requests' planes and garbage (NaN) everywhere else.
class Cache {
 public:
  Cache(Backend& backend, const Inputs& inputs, DType dtype, int32_t block_tokens) {
    const size_t plane = static_cast<size_t>(block_tokens * inputs.head_dim) * DTypeSize(dtype);
    for (size_t i = 0; i < 2 * kKvHeads; ++i) offsets_.push_back(64 + i * (plane + 64));
    arena_.block_bytes = 64 + 2 * kKvHeads * (plane + 64);
    arena_.block_tokens = block_tokens;
    arena_.head_dim = inputs.head_dim;
    arena_.dtype = dtype;
    int64_t blocks = 0;
    for (const Request& request : Requests()) blocks += request.context / block_tokens + 1;
    std::vector<int32_t> order(static_cast<size_t>(2 * blocks));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    Random(8).Shuffle(order);
    memory_ = std::move(*backend.Allocate(arena_.block_bytes * order.size()));
    std::memset(memory_->data(), 0xff, memory_->size());
    arena_.arena = memory_->data();
    for (const Request& request : Requests()) {
      const auto count = static_cast<size_t>(request.context / block_tokens + 1);
      tables_.emplace_back(order.end() - static_cast<int64_t>(count), order.end());
      order.resize(order.size() - count);
    }
    for (size_t i = 0; i < tables_.size(); ++i) Write(backend, inputs, i);
  }

  const PagedArena& arena() const { return arena_; }
  size_t KeyOffset(int64_t kv_head) const { return offsets_[static_cast<size_t>(2 * kv_head)]; }
  size_t ValueOffset(int64_t kv_head) const {
    return offsets_[static_cast<size_t>(2 * kv_head + 1)];
  }
  const int32_t* Table(size_t request) const { return tables_[request].data(); }

 private:
  void Write(Backend& backend, const Inputs& inputs, size_t request) {
    const int64_t context = Requests()[request].context;
    std::vector<int64_t> slots;
    for (int64_t p = 0; p < context; ++p) {
      const int32_t block = tables_[request][static_cast<size_t>(p / arena_.block_tokens)];
      slots.push_back(int64_t{block} * arena_.block_tokens + p % arena_.block_tokens);
    }
    std::vector<PlaneWrite> writes;
    for (int64_t g = 0; g < kKvHeads; ++g) {
      const int64_t stride = kKvHeads * inputs.head_dim;
      writes.push_back({PlaneKind::kKey, KeyOffset(g), inputs.Key(request, 0, g), stride});
      writes.push_back({PlaneKind::kValue, ValueOffset(g), inputs.Value(request, 0, g), stride});
    }
    const int64_t before = backend.counters().cache_bytes_written;
    backend.WritePlanes(arena_, slots, writes);
    EXPECT_EQ(
        backend.counters().cache_bytes_written - before,
        context * 2 * kKvHeads * inputs.head_dim * static_cast<int64_t>(DTypeSize(arena_.dtype)));
  }

  PagedArena arena_;
  std::vector<size_t> offsets_;  // key and value plane of each kv head
  std::unique_ptr<Buffer> memory_;
  std::vector<std::vector<int32_t>> tables_;
};

struct Outputs {
  std::vector<float> output;  // [row][head][head_dim]
  std::vector<float> lse;     // [row][head]
};

// Cuts request `i` into chunks of at most `chunk` rows; rows are numbered over all requests.
std::vector<SequenceRows> Cut(const Cache& cache, int64_t chunk) {
  std::vector<SequenceRows> sequences;
  int64_t row = 0;
  for (size_t i = 0; i < Requests().size(); ++i) {
    const auto [context, rows] = Requests()[i];
    for (int64_t done = 0; done < rows; done += chunk) {
      const int64_t count = std::min(chunk, rows - done);
      sequences.push_back({row + done, count, context - rows + done, cache.Table(i)});
    }
    row += rows;
  }
  return sequences;
}

// Runs attention on chunks of at most `chunk` rows, all in one call or a call each.
Outputs Attend(Backend& backend, const Inputs& inputs, const Cache& cache, int64_t chunk,
               bool one_call, const std::vector<float>* reused_lse = nullptr) {
  const int32_t dim = inputs.head_dim;
  GuardedRows out(inputs.total_rows, kHeads * dim);
  GuardedRows lse(inputs.total_rows, kHeads);
  GuardedRows reused(inputs.total_rows, kHeads);
  if (reused_lse != nullptr) reused = GuardedRows(inputs.total_rows, kHeads, *reused_lse);
  std::vector<HeadAttention> heads;
  for (int64_t h = 0; h < kHeads; ++h) {
    heads.push_back({.query = inputs.Query(0, h),
                     .query_stride = kHeads * dim,
                     .key_offset = cache.KeyOffset(KvHead(h)),
                     .value_offset = cache.ValueOffset(KvHead(h)),
                     .reused_lse = reused_lse == nullptr ? nullptr : &reused.at(0, h),
                     .lse = reused_lse == nullptr ? &lse.at(0, h) : nullptr,
                     .lse_stride = lse.stride(),
                     .output = &out.at(0, h * dim),
                     .output_stride = out.stride()});
  }
  const std::vector<SequenceRows> sequences = Cut(cache, chunk);
  if (one_call) {
    backend.Attention(cache.arena(), sequences, heads);
  } else {
    for (const SequenceRows& sequence : sequences) {
      backend.Attention(cache.arena(), {&sequence, 1}, heads);
    }
  }
  out.ExpectMarksIntact();
  lse.ExpectMarksIntact();
  return {out.Values(), lse.Values()};
}

// One query against the stored keys and values, in double.
struct Exact {
  std::vector<double> output;
  double lse;
  double score_error;  // bound on what a f32 score may be off by
  double largest;      // value met
};

Exact ExactAttention(const Inputs& inputs, DType dtype, size_t request, int64_t position,
                     int64_t row, int64_t head) {
  const int32_t dim = inputs.head_dim;
  const float* q = inputs.Query(row, head);
  std::vector<double> scores;
  Exact exact{std::vector<double>(static_cast<size_t>(dim)), 0, 0, 0};
  for (int64_t p = 0; p <= position; ++p) {
    const float* k = inputs.Key(request, p, KvHead(head));
    double score = 0;
    double sizes = 0;
    for (int32_t d = 0; d < dim; ++d) {
      score += double{q[d]} * double{Stored(k[d], dtype)};
      sizes += std::abs(double{q[d]} * double{Stored(k[d], dtype)});
    }
    scores.push_back(score / std::sqrt(dim));
    // A chain of dim roundings, then the rounded 1/sqrt(dim), and the product with it.
    exact.score_error = std::max(exact.score_error, (dim + 3) * kUnit * sizes / std::sqrt(dim));
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - maximum);
  exact.lse = maximum + std::log(sum);
  for (int64_t p = 0; p <= position; ++p) {
    const float* v = inputs.Value(request, p, KvHead(head));
    const double weight = std::exp(scores[static_cast<size_t>(p)] - exact.lse);
    for (int32_t d = 0; d < dim; ++d) {
      const double value = Stored(v[d], dtype);
      exact.output[static_cast<size_t>(d)] += weight * value;
      exact.largest = std::max(exact.largest, std::abs(value));
    }
  }
  return exact;
}

// With e the error of a score, a probability is off by a factor within exp(+-2e) (its own score and
// the sum's), and by a few roundings: subtracting the maximum (scores here stay below 32, so at
// most 16 units each), exp (4 units), the sum's and the chain's up to 256 additions of a span, and
// the merges. Weights sum to 1, so the output is off by that factor times the largest value.
void ExpectClose(const Inputs& inputs, DType dtype, const Outputs& actual) {
  int64_t row = 0;
  for (size_t i = 0; i < Requests().size(); ++i) {
    const auto [context, rows] = Requests()[i];
    for (int64_t r = 0; r < rows; ++r, ++row) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const Exact exact = ExactAttention(inputs, dtype, i, context - rows + r, row, h);
        const double factor = 2 * exact.score_error + (2 * 16 + 2 * 4 + 2 * 256 + 20) * kUnit;
        const auto at = static_cast<size_t>(row * kHeads + h);
        ASSERT_NEAR(actual.lse[at], exact.lse, factor + std::abs(exact.lse) * kUnit);
        for (int32_t d = 0; d < inputs.head_dim; ++d) {
          ASSERT_NEAR(
              actual.output[at * static_cast<size_t>(inputs.head_dim) + static_cast<size_t>(d)],
              exact.output[static_cast<size_t>(d)], factor * exact.largest)
              << "request " << i << " row " << r << " head " << h << " dimension " << d;
        }
      }
    }
  }
}

using Param = std::tuple<DType, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
class AttentionTest : public testing::TestWithParam<Param> {};

TEST_P(AttentionTest, MatchesOracleWithTheSameBitsHoweverItRuns) {
  const auto [dtype, head_dim, block_tokens] = GetParam();
  const Inputs inputs(head_dim);
  const std::unique_ptr<Backend> one = MakeCpu(1);
  const Cache cache(*one, inputs, dtype, block_tokens);
  const Outputs expected = Attend(*one, inputs, cache, 1000, true);
  ExpectClose(inputs, dtype, expected);
  const Outputs routed = Attend(*one, inputs, cache, 1000, true, &expected.lse);
  for (size_t i = 0; i < routed.output.size(); ++i) {  // the same but for rounding lse and weights
    ASSERT_NEAR(routed.output[i], expected.output[i], 6.0 * 800 * kUnit);
  }
  const std::unique_ptr<Backend> three = MakeCpu(3);
  const Cache other(*one, inputs, dtype, block_tokens == 16 ? 24 : 16);
  const auto expect_same = [&](Backend& backend, const Cache& from, int64_t chunk, bool one_call) {
    const Outputs own = Attend(backend, inputs, from, chunk, one_call);
    ExpectSameBits(expected.output, own.output, "output");
    ExpectSameBits(expected.lse, own.lse, "log-sum-exp");
    const Outputs reuse = Attend(backend, inputs, from, chunk, one_call, &expected.lse);
    ExpectSameBits(routed.output, reuse.output, "output of reused scores");
  };
  for (const int64_t target : AllTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    expect_same(*three, cache, 1000, true);
    if ((target & (HWY_SCALAR | HWY_EMU128)) != 0) continue;  // fuses in software: slow
    expect_same(*one, cache, 1000, true);
    expect_same(*three, cache, 7, false);
    expect_same(*three, other, 1, true);
  }
}

std::string ParamName(const testing::TestParamInfo<Param>& test) {
  const auto& [dtype, head_dim, block_tokens] = test.param;
  return absl::StrCat(std::string(DTypeName(dtype)), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(Layouts, AttentionTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(8, 20, 64), testing::Values(1, 5, 16)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(LargeHeads, AttentionTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(32, 80, 128), testing::Values(32, 512)),
                         ParamName);

TEST(AttentionTest, CountsEveryPlaneOnceForAllItsHeadsAndRows) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, DType::kBF16, 16);
  Attend(*backend, inputs, cache, 1000, true);
  int64_t positions = 0;
  for (const Request& request : Requests()) positions += request.context;
  EXPECT_EQ(backend->counters().cache_bytes_read, positions * kKvHeads * 2 * 64 * 2);
}

TEST(AttentionTest, NaNStaysWithTheRowThatHasIt) {
  Inputs inputs(20);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, DType::kF32, 16);
  const Outputs before = Attend(*backend, inputs, cache, 1000, true);
  constexpr int64_t kRow = 5;
  inputs.queries[static_cast<size_t>(kRow * kHeads * 20 + 3)] =
      std::numeric_limits<float>::quiet_NaN();  // of head 0
  Outputs after = Attend(*backend, inputs, cache, 1000, true);
  for (size_t d = 0; d < 20; ++d) {
    const size_t at = static_cast<size_t>(kRow * kHeads * 20) + d;
    EXPECT_TRUE(std::isnan(after.output[at]));
    after.output[at] = before.output[at];
  }
  EXPECT_TRUE(std::isnan(after.lse[kRow * kHeads]));
  after.lse[kRow * kHeads] = before.lse[kRow * kHeads];
  ExpectSameBits(before.output, after.output, "the other rows");
  ExpectSameBits(before.lse, after.lse, "the other rows' log-sum-exp");
}

TEST(AttentionTest, LaterInfinitiesDoNotReachEarlierRows) {
  const Inputs inputs(64);
  Inputs changed(64);
  // The last position of the chunk at [0, 37).
  for (int64_t i = 0; i < kKvHeads * 64; ++i) {
    changed.values[1][static_cast<size_t>(36 * kKvHeads * 64 + i)] = INFINITY;
    changed.keys[1][static_cast<size_t>(36 * kKvHeads * 64 + i)] = INFINITY;
  }
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  const Cache cache(*backend, inputs, DType::kF32, 16);
  const Cache changed_cache(*backend, changed, DType::kF32, 16);
  const auto earlier = [](const Outputs& all) {  // rows 0 (another request) to 36
    return std::vector<float>(all.output.begin(), all.output.begin() + 37 * kHeads * 64);
  };
  ExpectSameBits(earlier(Attend(*backend, inputs, cache, 1000, true)),
                 earlier(Attend(*backend, changed, changed_cache, 1000, true)), "earlier rows");
}

}  // namespace
}  // namespace strata::kernels
