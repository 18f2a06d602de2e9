// Contents of a cache's planes after writes of rows, byte by byte.

#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_testing.h"

namespace strata::kernels::planes_test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();
constexpr float kHuge = 3e38f;
constexpr auto kMark = std::byte{0xa7};

// Rows [rows][dim] of all kinds: at most 64 of them, in the order in which they are written.
std::vector<std::vector<float>> RowsOf(int32_t dim) {
  Random random(3);
  std::vector<std::vector<float>> rows;
  for (const float scale : {1.0f, 1e-30f, 1e30f, 1e-42f}) {
    for (int i = 0; i < 8; ++i) rows.push_back(random.Normals(dim, scale));
  }
  const auto filled = [&](std::initializer_list<float> begin) {
    rows.emplace_back(begin);
    rows.back().resize(static_cast<size_t>(dim));
  };
  filled({0.0f, -0.0f});
  filled({127.0f, 0.5f, 1.5f, -2.5f, 126.5f, -0.5f});  // ties with scale 1
  filled({-kHuge, kHuge, kHuge / 2});
  filled({kTiny, -kTiny});                          // the scale is 0
  filled({150 * kTiny, -190 * kTiny, 95 * kTiny});  // the scale is one unit, and inexact
  filled({1.0f, kNaN, -2.0f});
  filled({1.0f, 2.0f, -INFINITY});
  return rows;
}

// The row's bytes, first the numbers, then the scale, by the contract.
struct Expected {
  std::vector<std::byte> numbers;
  std::vector<std::byte> scale;
};

template <class T>
void Append(T value, std::vector<std::byte>* to) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  to->insert(to->end(), bytes, bytes + sizeof(value));
}

Expected Convert(const std::vector<float>& row, PlaneFormat dtype) {
  Expected expected;
  if (dtype == PlaneFormat::kI8) {
    float largest = 0;
    bool finite = true;
    for (const float x : row) {
      largest = std::fmax(largest, std::fabs(x));
      finite = finite && std::isfinite(x);
    }
    const float scale = finite ? largest / 127.0f : kNaN;
    Append(scale, &expected.scale);
    for (const float x : row) {
      const float number = finite && scale != 0 ? std::nearbyint(x / scale) : 0;
      Append(static_cast<int8_t>(std::fmin(std::fmax(number, -127.0f), 127.0f)), &expected.numbers);
    }
    return expected;
  }
  for (const float x : row) {
    if (dtype == PlaneFormat::kF32) Append(x, &expected.numbers);
    if (dtype != PlaneFormat::kBF16) continue;
    const uint32_t bits = std::bit_cast<uint32_t>(NearestBF16(x));
    Append(static_cast<uint16_t>(bits >> 16), &expected.numbers);
  }
  return expected;
}

using Param = std::tuple<CacheFormats, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
class PlanesTest : public testing::TestWithParam<Param> {};

TEST_P(PlanesTest, HoldWhatWasWrittenAndNothingElse) {
  const auto [dtypes, head_dim, block_tokens] = GetParam();
  const std::vector<std::vector<float>> rows = RowsOf(head_dim);
  std::vector<float> source;
  for (const auto& row : rows) source.insert(source.end(), row.begin(), row.end());
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  PagedArena arena{
      .block_tokens = block_tokens, .key_format = dtypes.keys, .value_format = dtypes.values};
  const auto tokens = static_cast<size_t>(block_tokens);
  const auto dim = static_cast<size_t>(head_dim);
  const size_t value_offset = tokens * arena.TokenBytes(PlaneKind::kKey, head_dim);
  arena.place_bytes = value_offset + tokens * arena.TokenBytes(PlaneKind::kValue, head_dim);
  const size_t blocks = 2 * rows.size() / tokens + 1;
  auto memory = *backend->Allocate(blocks * arena.place_bytes);
  arena.arena = memory->data();
  std::fill_n(arena.arena, memory->size(), kMark);
  std::vector<int64_t> slots(blocks * tokens);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(i);
  Random(4).Shuffle(slots);
  slots.resize(rows.size());
  const HeadWay ways[] = {
      WriteWay(PlaneKind::kKey, {}, source.data(), head_dim, head_dim),
      WriteWay(PlaneKind::kValue, {.offset = value_offset}, source.data(), head_dim, head_dim)};
  backend->PrepareAttention(arena, {.num_rows = std::ssize(slots), .ways = ways, .slots = slots});

  std::vector<std::byte> expected(memory->size(), kMark);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto slot = static_cast<size_t>(slots[i]);
    const size_t token = slot % tokens;
    for (const HeadWay& way : ways) {
      const PlaneFormat dtype = arena.format(way.kind);
      const Expected row = Convert(rows[i], dtype);
      std::byte* const plane = &expected[slot / tokens * arena.place_bytes + way.plane.offset];
      const size_t size = NumberBytes(dtype);
      for (size_t d = 0; d < dim; ++d) {
        const size_t place = way.kind == PlaneKind::kKey ? d * tokens + token : token * dim + d;
        std::copy_n(&row.numbers[d * size], size, plane + place * size);
      }
      // Behind the numbers, on the next multiple of four.
      const size_t scales = tokens * ((dim + 3) / 4 * 4);
      std::copy(row.scale.begin(), row.scale.end(), plane + scales + 4 * token);
    }
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(arena.arena[i], expected[i])
        << "byte " << i % arena.place_bytes << " of block " << i / arena.place_bytes;
  }
}

std::string ParamName(const testing::TestParamInfo<Param>& test) {
  const auto& [dtypes, head_dim, block_tokens] = test.param;
  return absl::StrCat(NameOf(dtypes), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(Layouts, PlanesTest,
                         testing::Combine(kCaches, testing::Values(6, 20, 64, 256),
                                          testing::Values(1, 5, 16, 32, 64)),
                         ParamName);

TEST(PlanesTest, RowsOfNoSlotAreNotWritten) {
  for (const CacheFormats dtypes : {kF32Cache, kBF16Cache, kInt8Cache}) {
    SCOPED_TRACE(NameOf(dtypes));
    ExpectRowsOfNoSlotAreNotWritten(*MakeCpu(1), dtypes);
  }
}

}  // namespace
}  // namespace strata::kernels::planes_test
