#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "tests/kernels/kernel_testing.h"

// Some requests, their keys and values in a cache with random block tables, and attention over
// them.
namespace strata::kernels {

inline constexpr int64_t kHeads = 5;  // read kv heads 0 0 0 1 1
inline constexpr int64_t kKvHeads = 2;
constexpr int64_t KvHead(int64_t head) { return head / 3; }

// A run of tokens: positions [0, context) are in the cache, the last `rows` of them are queried.
struct Request {
  int64_t context;
  int64_t rows;
};

// Contexts within a span, at its borders and over several; single rows, and chunks that cross one.
inline const std::vector<Request>& Requests() {
  static const std::vector<Request> requests = {{1, 1},    {37, 37}, {256, 1},
                                                {257, 30}, {700, 1}, {530, 2}};
  return requests;
}

// Dtypes of keys and values.
struct CacheFormats {
  PlaneFormat keys;
  PlaneFormat values;
};
inline constexpr CacheFormats kF32Cache = {PlaneFormat::kF32, PlaneFormat::kF32};
inline constexpr CacheFormats kBF16Cache = {PlaneFormat::kBF16, PlaneFormat::kBF16};
inline constexpr CacheFormats kInt8Cache = {PlaneFormat::kI8, PlaneFormat::kI8};
inline constexpr CacheFormats kF16Cache = {PlaneFormat::kF16, PlaneFormat::kF16};
inline constexpr CacheFormats kFp8Cache = {PlaneFormat::kF8, PlaneFormat::kF8};
inline constexpr CacheFormats kInt8Keys = {PlaneFormat::kI8, PlaneFormat::kBF16};
inline constexpr CacheFormats kInt8Values = {PlaneFormat::kF32, PlaneFormat::kI8};
inline const auto kCaches =
    ::testing::Values(kF32Cache, kBF16Cache, kInt8Cache, kInt8Keys, kInt8Values);
inline std::string NameOf(CacheFormats dtypes) {
  return std::string(FormatName(dtypes.keys)) + "_" + std::string(FormatName(dtypes.values));
}

// Keys, values and queries, the same for every layout of the cache.
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
  Cache(Backend& backend, const Inputs& inputs, CacheFormats dtypes, int32_t block_tokens) {
    arena_.block_bytes = 64;
    arena_.block_tokens = block_tokens;
    arena_.head_dim = inputs.head_dim;
    arena_.key_format = dtypes.keys;
    arena_.value_format = dtypes.values;
    for (int64_t i = 0; i < 2 * kKvHeads; ++i) {
      offsets_.push_back(arena_.block_bytes);
      const size_t token_bytes =
          arena_.TokenBytes(i % 2 == 0 ? PlaneKind::kKey : PlaneKind::kValue);
      arena_.block_bytes += static_cast<size_t>(block_tokens) * token_bytes + 64;
    }
    int64_t blocks = 0;
    for (const Request& request : Requests()) blocks += request.context / block_tokens + 1;
    std::vector<int32_t> order(static_cast<size_t>(2 * blocks));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    Random(8).Shuffle(order);
    memory_ =
        Upload(backend, std::vector<std::byte>(arena_.block_bytes * order.size(), std::byte{0xff}));
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
    const std::unique_ptr<Buffer> keys = Upload(backend, inputs.keys[request]);
    const std::unique_ptr<Buffer> values = Upload(backend, inputs.values[request]);
    std::vector<PlaneWrite> writes;
    for (int64_t g = 0; g < kKvHeads; ++g) {
      const int64_t begin = g * inputs.head_dim;
      const int64_t stride = kKvHeads * inputs.head_dim;
      writes.push_back({PlaneKind::kKey, KeyOffset(g), keys->floats() + begin, stride});
      writes.push_back({PlaneKind::kValue, ValueOffset(g), values->floats() + begin, stride});
    }
    const int64_t before = backend.counters().cache_bytes_written;
    backend.PrepareAttention(arena_, {.writes = writes, .slots = slots});
    const size_t pair = arena_.TokenBytes(PlaneKind::kKey) + arena_.TokenBytes(PlaneKind::kValue);
    EXPECT_EQ(backend.counters().cache_bytes_written - before,
              context * kKvHeads * static_cast<int64_t>(pair));
    EXPECT_TRUE(backend.Synchronize().ok());
  }

  PagedArena arena_;
  std::vector<size_t> offsets_;  // key and value plane of each kv head
  std::unique_ptr<Buffer> memory_;
  std::vector<std::vector<int32_t>> tables_;
};

// Four rows, of which only one has a slot, leave the same memory as that row alone, in the cache
// and before it.
inline void ExpectRowsOfNoSlotAreNotWritten(Backend& backend, CacheFormats dtypes) {
  constexpr int32_t kDim = 20;
  PagedArena arena = {.block_tokens = 4,
                      .head_dim = kDim,
                      .key_format = dtypes.keys,
                      .value_format = dtypes.values};
  const size_t key_bytes = 4 * arena.TokenBytes(PlaneKind::kKey);
  arena.block_bytes = key_bytes + 4 * arena.TokenBytes(PlaneKind::kValue);
  const std::vector<std::byte> marks(4 * arena.block_bytes, std::byte{0xa7});
  const std::unique_ptr<Buffer> rows = Upload(backend, Random(6).Normals(4 * kDim));
  const auto write = [&](int64_t first, std::vector<int64_t> slots) {
    const std::unique_ptr<Buffer> memory = Upload(backend, marks);
    arena.arena = memory->data() + arena.block_bytes;  // block -1 can be written, too
    const float* const from = rows->floats() + first * kDim;
    const PlaneWrite writes[] = {{PlaneKind::kKey, 0, from, kDim},
                                 {PlaneKind::kValue, key_bytes, from, kDim}};
    backend.PrepareAttention(arena, {.writes = writes, .slots = slots});
    return Download<std::byte>(backend, *memory);
  };
  const std::vector<std::byte> expected = write(1, {6});
  EXPECT_FALSE(expected == marks);
  EXPECT_TRUE(write(0, {kNoSlot, 6, kNoSlot, kNoSlot}) == expected);
}

struct Outputs {
  std::vector<float> output;  // [row][head][head_dim]
  std::vector<float> lse;     // [row][head]
};

// Cuts request `i` into chunks of at most `chunk` rows; rows are numbered over all requests.
inline std::vector<SequenceRows> Cut(const Cache& cache, int64_t chunk) {
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
inline Outputs Attend(Backend& backend, const Inputs& inputs, const Cache& cache, int64_t chunk,
                      bool one_call, const std::vector<float>* reused_lse = nullptr) {
  const int32_t dim = inputs.head_dim;
  const std::unique_ptr<Buffer> queries = Upload(backend, inputs.queries);
  BackendRows out(backend, GuardedRows(inputs.total_rows, kHeads * dim));
  BackendRows lse(backend, GuardedRows(inputs.total_rows, kHeads));
  BackendRows reused(backend, reused_lse == nullptr
                                  ? GuardedRows(inputs.total_rows, kHeads)
                                  : GuardedRows(inputs.total_rows, kHeads, *reused_lse));
  std::vector<HeadAttention> heads;
  for (int64_t h = 0; h < kHeads; ++h) {
    heads.push_back({.query = queries->floats() + h * dim,
                     .query_stride = kHeads * dim,
                     .key_offset = cache.KeyOffset(KvHead(h)),
                     .value_offset = cache.ValueOffset(KvHead(h)),
                     .reused_lse = reused_lse == nullptr ? nullptr : reused.At(0, h),
                     .lse = reused_lse == nullptr ? lse.At(0, h) : nullptr,
                     .lse_stride = lse.stride(),
                     .output = out.At(0, h * dim),
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
  return {out.Fetch().Values(), lse.Fetch().Values()};
}

}  // namespace strata::kernels
