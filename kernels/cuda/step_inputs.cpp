#include "kernels/cuda/step_inputs.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace strata::kernels::cuda {
namespace {

constexpr size_t kLeastRoom = 64;  // bytes, and their alignment

}  // namespace

void StepInputs::Open(Stream* stream, Staging* staging) {
  stream_ = stream;
  staging_ = staging;
  pinned_.Reserve(*stream, 2 * kRoom);
  for (Event& event : read_) event.Open(*stream);
  mirror_.Reserve(*stream, kRoom);
  stream->set_before_work([this] { Send(); });
}

void StepInputs::Begin() {
  if (!stream_->ok()) return;
  half_ = 1 - half_;
  used_ = sent_ = 0;
  last_ = {};
  ++generation_;
  stream_->Check(cudaEventSynchronize(read_[half_].handle()), "waiting for what was sent");
}

const std::byte* StepInputs::PutBytes(Kind kind, std::span<const std::byte> values) {
  if (values.empty() || !stream_->ok()) return nullptr;
  Place& last = last_[kind];
  if (last.bytes == values.size() &&
      std::equal(values.begin(), values.end(), half() + last.offset)) {
    return mirror_.data() + last.offset;
  }
  const size_t room = std::max(kLeastRoom, std::bit_ceil(values.size()));
  if (used_ + room > kRoom) {
    std::byte* const to = large_[kind].Reserve(*stream_, room);  // contexts grow
    staging_->Send(*stream_, to, values.data(), values.size());
    return to;
  }
  last = {.offset = used_, .bytes = values.size()};
  std::memcpy(half() + used_, values.data(), values.size());
  used_ += room;
  return mirror_.data() + last.offset;
}

void StepInputs::Send() {
  if (sent_ == used_ || !stream_->ok()) return;
  stream_->Check(cudaMemcpyAsync(mirror_.data() + sent_, half() + sent_, used_ - sent_,
                                 cudaMemcpyHostToDevice, stream_->handle()),
                 "sending a step's inputs");
  stream_->Check(cudaEventRecord(read_[half_].handle(), stream_->handle()),
                 "marking what was read");
  sent_ = used_;
}

}  // namespace strata::kernels::cuda
