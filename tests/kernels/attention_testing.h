#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
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

// A way that only writes.
inline HeadWay WriteWay(PlaneKind kind, PlaneRef plane, float* from, int64_t stride,
                        int32_t head_dim) {
  return {.data = from,
          .stride = stride,
          .head_dim = head_dim,
          .is_written = true,
          .kind = kind,
          .plane = plane};
}

// Blocks in random order, holding the requests' planes and garbage (NaN) everywhere else. There are
// two block groups: keys of kv head 0 and values of kv head 1 stand in the blocks of the first, the
// other planes in those of the second, so that no head finds its keys and values by one table.
class Cache {
 public:
  static constexpr int32_t kGroups = 2;

  Cache(Backend& backend, const Inputs& inputs, CacheFormats dtypes, int32_t block_tokens) {
    arena_ = {.place_bytes = 64,
              .block_tokens = block_tokens,
              .block_groups = kGroups,
              .key_format = dtypes.keys,
              .value_format = dtypes.values};
    int32_t block_places[kGroups];
    for (int32_t group = 0; group < kGroups; ++group) {
      size_t end = 64;
      for (const PlaneKind kind : {PlaneKind::kKey, PlaneKind::kValue}) {
        const bool is_key = kind == PlaneKind::kKey;
        const int64_t kv_head = is_key ? group : 1 - group;
        (is_key ? keys_ : values_)[kv_head] = {.block_group = group, .offset = end};
        const size_t token_bytes = arena_.TokenBytes(kind, inputs.head_dim);
        end += static_cast<size_t>(block_tokens) * token_bytes + 64;
        end = (end + 15) / 16 * 16;
      }
      block_places[group] = static_cast<int32_t>((end + 63) / 64);
    }
    const size_t places = PlaceBlocks(block_places);
    memory_ = Upload(backend, std::vector<std::byte>(arena_.place_bytes * places, std::byte{0xff}));
    arena_.arena = memory_->data();
    for (size_t i = 0; i < Requests().size(); ++i) Write(backend, inputs, i);
  }

  const PagedArena& arena() const { return arena_; }
  // The heads as the plane groups of a layer. `without`: a head to be left out.
  std::vector<PlaneGroup> Groups(const std::vector<HeadAttention>& heads, int32_t head_dim,
                                 int64_t without = -1) const {
    std::vector<PlaneGroup> groups;
    for (int64_t g = 0; g < kKvHeads; ++g) {
      groups.push_back({.keys = keys_[g], .values = values_[g], .head_dim = head_dim});
    }
    for (int64_t h = 0; h < kHeads; ++h) {
      if (h == without) continue;
      groups[static_cast<size_t>(KvHead(h))].heads.push_back(heads[static_cast<size_t>(h)]);
    }
    return groups;
  }
  const int32_t* const* Tables(size_t request) const { return pointers_[request].data(); }

 private:
  // Fills the tables. Returns the number of places, of which half belong to no request.
  size_t PlaceBlocks(const int32_t (&block_places)[kGroups]) {
    struct Block {
      int32_t group;
      int32_t place;
    };
    std::vector<Block> blocks;
    for (const Request& request : Requests()) {
      const int64_t count = request.context / arena_.block_tokens + 1;
      for (int64_t i = 0; i < 2 * count; ++i) {
        for (int32_t group = 0; group < kGroups; ++group) blocks.push_back({group, 0});
      }
    }
    Random(8).Shuffle(blocks);
    int32_t end = 0;
    for (Block& block : blocks) {
      block.place = end;
      end += block_places[block.group];
    }
    tables_.resize(Requests().size());
    for (size_t i = 0; i < Requests().size(); ++i) {
      const auto count = static_cast<size_t>(Requests()[i].context / arena_.block_tokens + 1);
      for (int32_t group = 0; group < kGroups; ++group) {
        std::vector<int32_t>& table = tables_[i][static_cast<size_t>(group)];
        while (table.size() < count) {
          const auto last = std::find_if(blocks.rbegin(), blocks.rend(),
                                         [&](const Block& block) { return block.group == group; });
          table.push_back(last->place);
          blocks.erase(std::next(last).base());
        }
        pointers_.resize(Requests().size());
        pointers_[i][static_cast<size_t>(group)] = table.data();
      }
    }
    return static_cast<size_t>(end);
  }

  void Write(Backend& backend, const Inputs& inputs, size_t request) {
    const int64_t context = Requests()[request].context;
    std::vector<int64_t> slots;
    for (const std::vector<int32_t>& table : tables_[request]) {
      for (int64_t p = 0; p < context; ++p) {
        const int32_t place = table[static_cast<size_t>(p / arena_.block_tokens)];
        slots.push_back(int64_t{place} * arena_.block_tokens + p % arena_.block_tokens);
      }
    }
    const std::unique_ptr<Buffer> keys = Upload(backend, inputs.keys[request]);
    const std::unique_ptr<Buffer> values = Upload(backend, inputs.values[request]);
    std::vector<HeadWay> ways;
    for (int64_t g = 0; g < kKvHeads; ++g) {
      const int64_t begin = g * inputs.head_dim;
      const int64_t stride = kKvHeads * inputs.head_dim;
      ways.push_back(
          WriteWay(PlaneKind::kKey, keys_[g], keys->floats() + begin, stride, inputs.head_dim));
      ways.push_back(WriteWay(PlaneKind::kValue, values_[g], values->floats() + begin, stride,
                              inputs.head_dim));
    }
    const int64_t before = backend.counters().cache_bytes_written;
    backend.PrepareAttention(arena_, {.num_rows = context, .ways = ways, .slots = slots});
    const size_t pair = arena_.TokenBytes(PlaneKind::kKey, inputs.head_dim) +
                        arena_.TokenBytes(PlaneKind::kValue, inputs.head_dim);
    EXPECT_EQ(backend.counters().cache_bytes_written - before,
              context * kKvHeads * static_cast<int64_t>(pair));
    EXPECT_TRUE(backend.Synchronize().ok());
  }

  PagedArena arena_;
  PlaneRef keys_[kKvHeads];
  PlaneRef values_[kKvHeads];
  std::unique_ptr<Buffer> memory_;
  std::vector<std::array<std::vector<int32_t>, kGroups>> tables_;  // [request]
  std::vector<std::array<const int32_t*, kGroups>> pointers_;      // of tables_
};

// Four rows, of which only one has a slot, leave the same memory as that row alone, in the cache
// and before it.
inline void ExpectRowsOfNoSlotAreNotWritten(Backend& backend, CacheFormats dtypes) {
  constexpr int32_t kDim = 20;
  PagedArena arena = {.block_tokens = 4, .key_format = dtypes.keys, .value_format = dtypes.values};
  const size_t key_bytes = 4 * arena.TokenBytes(PlaneKind::kKey, kDim);
  arena.place_bytes = key_bytes + 4 * arena.TokenBytes(PlaneKind::kValue, kDim);
  const std::vector<std::byte> marks(4 * arena.place_bytes, std::byte{0xa7});
  const std::unique_ptr<Buffer> rows = Upload(backend, Random(6).Normals(4 * kDim));
  const auto write = [&](int64_t first, std::vector<int64_t> slots) {
    const std::unique_ptr<Buffer> memory = Upload(backend, marks);
    arena.arena = memory->data() + arena.place_bytes;  // block -1 can be written, too
    float* const from = rows->floats() + first * kDim;
    const HeadWay ways[] = {WriteWay(PlaneKind::kKey, {}, from, kDim, kDim),
                            WriteWay(PlaneKind::kValue, {.offset = key_bytes}, from, kDim, kDim)};
    backend.PrepareAttention(arena, {.num_rows = std::ssize(slots), .ways = ways, .slots = slots});
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
      sequences.push_back({row + done, count, context - rows + done, cache.Tables(i)});
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
                     .reused_lse = reused_lse == nullptr ? nullptr : reused.At(0, h),
                     .lse = reused_lse == nullptr ? lse.At(0, h) : nullptr,
                     .lse_stride = lse.stride(),
                     .output = out.At(0, h * dim),
                     .output_stride = out.stride()});
  }
  const std::vector<PlaneGroup> groups = cache.Groups(heads, dim);
  const std::vector<SequenceRows> sequences = Cut(cache, chunk);
  if (one_call) {
    backend.Attention(cache.arena(), sequences, groups);
  } else {
    for (const SequenceRows& sequence : sequences) {
      backend.Attention(cache.arena(), {&sequence, 1}, groups);
    }
  }
  return {out.Fetch().Values(), lse.Fetch().Values()};
}

}  // namespace strata::kernels
