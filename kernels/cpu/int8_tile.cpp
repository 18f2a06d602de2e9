#include "kernels/cpu/int8_tile.h"

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/int8_tile.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

using DI = hn::RebindToSigned<D>;
using VI = hn::Vec<DI>;

// An i32 lane is four weights of an output, or four inputs of a row. Products of bytes are summed
// in i16 pairs if an instruction does that (exactly: the pairs are i16 and their sum is i32), else
// byte by byte. The pairs are a group's first and third, and its second and fourth.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr bool kPairs = true;
using D16 = hn::Repartition<int16_t, DI>;
using DU16 = hn::RebindToUnsigned<D16>;

template <size_t kPart>
HWY_INLINE VI PartOfWeights(VI groups) {
  const auto words = hn::BitCast(DU16(), groups);
  return hn::BitCast(DI(), kPart == 0 ? hn::And(words, hn::Set(DU16(), uint16_t{0xff}))
                                      : hn::ShiftRight<8>(words));
}
HWY_INLINE VI AddProducts(VI weights, VI inputs, VI sum) {
  VI unused = hn::Zero(DI());
  sum = hn::ReorderWidenMulAccumulate(DI(), hn::BitCast(D16(), weights), hn::BitCast(D16(), inputs),
                                      sum, unused);
  // Without this GCC first adds the products of a group's parts, and runs out of registers.
  __asm__("" : "+v"(sum.raw));
  return sum;
}
#else
constexpr bool kPairs = false;

template <size_t kPart>
HWY_INLINE VI PartOfWeights(VI groups) {
  return hn::And(hn::ShiftRight<8 * kPart>(groups), hn::Set(DI(), 0xff));
}
HWY_INLINE VI AddProducts(VI weights, VI inputs, VI sum) {
  return hn::Add(sum, hn::Mul(weights, inputs));
}
#endif

constexpr size_t kParts = kPairs ? 2 : kInt8Group;  // of a group
constexpr size_t kPartBytes = kPairs ? 2 * sizeof(int16_t) : sizeof(int8_t);
constexpr size_t kRowBytes = kInt8Depth / kInt8Group * kParts * kPartBytes;

// A part of a row's group of inputs, in every lane.
HWY_INLINE VI PartOfInputs(const std::byte* x) {
  std::conditional_t<kPairs, int32_t, int8_t> part;
  std::memcpy(&part, x, kPartBytes);
  return hn::Set(DI(), part);
}

// Adds a part of the products of each row's group.
template <size_t kPart, size_t kRows, size_t kVectors>
HWY_INLINE void AddPart(const std::byte* x, const VI (&groups)[kVectors],
                        VI (&sums)[kRows][kVectors]) {
  VI weights[kVectors];
  for (size_t v = 0; v < kVectors; ++v) weights[v] = PartOfWeights<kPart>(groups[v]);
  for (size_t r = 0; r < kRows; ++r) {
    const VI inputs = PartOfInputs(x + r * kRowBytes + kPart * kPartBytes);
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = AddProducts(weights[v], inputs, sums[r][v]);
    }
  }
}

template <size_t kRows>
HWY_NOINLINE void MultiplyColumns(const Int8Tile& tile) {
  constexpr size_t kVectors = PanelVectors(kRows, kInt8Columns);
  const DI d;
  const size_t later_step = tile.later_step;
  for (size_t column = 0; column < kInt8Columns; column += kVectors * kLanes) {
    VI sums[kRows][kVectors];
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Set(d, tile.starts[r]);
    }
    const auto* x = static_cast<const std::byte*>(tile.x);
    const uint8_t* w = tile.w + column * kInt8Group;
    const std::byte* later = tile.later + column * sizeof(int32_t);
    Steps<4>(tile.groups, [&] {
      AskFor<kVectors * sizeof(int32_t)>(later);
      VI groups[kVectors];
      for (size_t v = 0; v < kVectors; ++v) {
        groups[v] = hn::LoadU(d, reinterpret_cast<const int32_t*>(w + v * kLanes * kInt8Group));
      }
      AddPart<0>(x, groups, sums);
      AddPart<1>(x, groups, sums);
      if constexpr (!kPairs) {
        AddPart<2>(x, groups, sums);
        AddPart<3>(x, groups, sums);
      }
      x += kParts * kPartBytes;
      w += kInt8Columns * kInt8Group;
      later += later_step;
    });
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) {
        float* to = tile.sums + r * kInt8Columns + column + v * kLanes;
        const V before = tile.first ? hn::Zero(D()) : hn::LoadU(D(), to);
        const V sum = hn::ConvertTo(D(), sums[r][v]);
        hn::StoreU(Fma(sum, hn::Set(D(), tile.scales[r]), before), D(), to);
      }
    }
  }
}

void MultiplyInt8(size_t rows, const Int8Tile& tile) {
  static_assert(kTileRows <= kInt8MaxRows);
  WithRows(rows, [&](auto count) { MultiplyColumns<count()>(tile); });
}

Int8Kernel PortableInt8() { return {kPairs, kTileRows, MultiplyInt8}; }

Int8Kernel BestInt8() { return kIsAvx512 && HasVnni() ? VnniInt8Kernel() : PortableInt8(); }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(PortableInt8);
HWY_EXPORT(BestInt8);

Int8Kernel PortableInt8Kernel() { return HWY_DYNAMIC_DISPATCH(PortableInt8)(); }

Int8Kernel BestInt8Kernel() { return HWY_DYNAMIC_DISPATCH(BestInt8)(); }

bool HasVnni() {
#if HWY_ARCH_X86_64
  static const bool has = __builtin_cpu_supports("avx512vnni");
  return has;
#else
  return false;
#endif
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
