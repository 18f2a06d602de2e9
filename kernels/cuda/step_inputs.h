#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace strata::kernels::cuda {

// Lists that calls hand over in host memory and kernels read in device memory. Lists are gathered
// in pinned memory and copied to the same places of a mirror on the device, before the work that
// reads them; the lists of a step that is held back go in one copy. A list has room for a power of
// two of bytes, so it usually keeps its place from step to step when its length changes a little.
//
//   step n     [ids|positions|slots|sequences|tables|...]  half 0 ─┐
//                                                                  ├─ one copy each ─► mirror
//   step n + 1 [ids|positions|slots|sequences|tables|...]  half 1 ─┘
//
// A half is written again when the device has read it. The mirror is one: copies and kernels run in
// order.
class StepInputs {
 public:
  static constexpr size_t kRoom = size_t{4} << 20;  // of a half; longer lists go by themselves

  // A list equal to the last of its kind is not sent again within a step.
  enum Kind : uint8_t {
    kIds,
    kPositions,
    kSlots,
    kGathered,
    kSequences,
    kTables,
    kChoices,
    kSeen,
    kBiases,
    kNumKinds
  };

  // `stream` and `staging` outlive it.
  void Open(Stream* stream, Staging* staging);
  // Forgets the lists so far and turns to the other half. REQUIRES: no work is held back.
  void Begin();
  // Changes when the lists put so far are no longer there.
  int64_t generation() const { return generation_; }

  // `values` on the device, for work put into the stream up to the next Begin(); null if empty. The
  // caller may change `values` when this returns.
  template <class T>
  const T* Put(Kind kind, std::span<const T> values) {
    return reinterpret_cast<const T*>(PutBytes(kind, std::as_bytes(values)));
  }

 private:
  struct Place {
    size_t offset = 0;
    size_t bytes = 0;  // 0: nothing was put
  };

  const std::byte* PutBytes(Kind kind, std::span<const std::byte> values);
  void Send();
  std::byte* half() const { return pinned_.data() + static_cast<size_t>(half_) * kRoom; }

  Stream* stream_ = nullptr;
  Staging* staging_ = nullptr;
  PinnedArray<std::byte> pinned_;  // two halves
  Event read_[2];                  // the device has read the half
  DeviceArray<std::byte> mirror_;
  DeviceArray<std::byte> large_[kNumKinds];  // lists that did not fit
  int half_ = 0;
  size_t used_ = 0;  // of the half
  size_t sent_ = 0;
  int64_t generation_ = 0;
  std::array<Place, kNumKinds> last_ = {};
};

}  // namespace strata::kernels::cuda
