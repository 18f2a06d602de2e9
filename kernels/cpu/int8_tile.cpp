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

// An i32 lane is an output's four weights, or a row's four inputs. Products of bytes are summed in
// i16 pairs where an instruction does that (exactly: the pairs are i16 and their sum is i32), else
// byte by byte.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr size_t kParts = 2;
using D16 = hn::Repartition<int16_t, DI>;
using DU16 = hn::RebindToUnsigned<D16>;

HWY_INLINE void SplitWeights(VI quads, VI (&parts)[kParts]) {
  const auto words = hn::BitCast(DU16(), quads);
  parts[0] = hn::BitCast(DI(), hn::And(words, hn::Set(DU16(), uint16_t{0xff})));
  parts[1] = hn::BitCast(DI(), hn::ShiftRight<8>(words));
}
HWY_INLINE void SplitInputs(VI quads, VI (&parts)[kParts]) {
  const auto words = hn::BitCast(D16(), quads);
  parts[0] = hn::BitCast(DI(), hn::ShiftRight<8>(hn::ShiftLeft<8>(words)));
  parts[1] = hn::BitCast(DI(), hn::ShiftRight<8>(words));
}
HWY_INLINE VI AddProducts(VI weights, VI inputs, VI sum) {
  VI unused = hn::Zero(DI());
  return hn::ReorderWidenMulAccumulate(DI(), hn::BitCast(D16(), weights),
                                       hn::BitCast(D16(), inputs), sum, unused);
}
#else
constexpr size_t kParts = 4;

HWY_INLINE void SplitWeights(VI quads, VI (&parts)[kParts]) {
  const auto byte = hn::Set(DI(), 0xff);
  parts[0] = hn::And(quads, byte);
  parts[1] = hn::And(hn::ShiftRight<8>(quads), byte);
  parts[2] = hn::And(hn::ShiftRight<16>(quads), byte);
  parts[3] = hn::And(hn::ShiftRight<24>(quads), byte);
}
HWY_INLINE void SplitInputs(VI quads, VI (&parts)[kParts]) {
  parts[0] = hn::ShiftRight<24>(hn::ShiftLeft<24>(quads));
  parts[1] = hn::ShiftRight<24>(hn::ShiftLeft<16>(quads));
  parts[2] = hn::ShiftRight<24>(hn::ShiftLeft<8>(quads));
  parts[3] = hn::ShiftRight<24>(quads);
}
HWY_INLINE VI AddProducts(VI weights, VI inputs, VI sum) {
  return hn::Add(sum, hn::Mul(weights, inputs));
}
#endif

// Beside the sums of its rows, two vectors each, a tile keeps two vectors of split weights and the
// split inputs of a row in registers: of AVX2's 16 that leaves 4 rows.
constexpr size_t kInt8Rows = kTileRows == 6 ? 4 : kTileRows;
static_assert(kInt8Rows <= kInt8MaxRows);

template <size_t kRows>
HWY_NOINLINE void MultiplyColumns(const Int8Tile& tile) {
  constexpr size_t kVectors = 2;
  const DI d;
  for (size_t column = 0; column < kInt8Columns; column += kVectors * kLanes) {
    VI sums[kRows][kVectors];
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Set(d, tile.starts[r]);
    }
    for (size_t group = 0; group < tile.groups; ++group) {
      VI weights[kVectors][kParts];
      for (size_t v = 0; v < kVectors; ++v) {
        const uint8_t* from = tile.w + (group * kInt8Columns + column + v * kLanes) * kInt8Group;
        SplitWeights(hn::LoadU(d, reinterpret_cast<const int32_t*>(from)), weights[v]);
      }
      AskFor<kVectors * sizeof(int32_t)>(tile.later + group * tile.later_step +
                                         column * sizeof(int32_t));
      for (size_t r = 0; r < kRows; ++r) {
        int32_t quad = 0;
        std::memcpy(&quad, tile.x + r * kInt8Depth + group * kInt8Group, sizeof(quad));
        VI inputs[kParts];
        SplitInputs(hn::Set(d, quad), inputs);
        for (size_t v = 0; v < kVectors; ++v) {
          for (size_t part = 0; part < kParts; ++part) {
            sums[r][v] = AddProducts(weights[v][part], inputs[part], sums[r][v]);
          }
        }
      }
    }
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
  WithRows(rows, [&](auto count) {
    if constexpr (count() <= kInt8Rows) MultiplyColumns<count()>(tile);
  });
}

Int8Kernel PortableInt8() { return {kInt8Rows, MultiplyInt8}; }

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
