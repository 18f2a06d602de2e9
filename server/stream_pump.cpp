#include "server/stream_pump.h"

#include <utility>

namespace strata::server {

StreamPump::StreamPump(std::chrono::milliseconds tick) : tick_(tick), thread_([this] { Run(); }) {}

StreamPump::~StreamPump() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void StreamPump::Wake(std::shared_ptr<Stream> stream) {
  {
    const std::lock_guard lock(mutex_);
    if (stream->queued_) return;
    stream->queued_ = true;
    if (!stream->known_) {
      stream->known_ = true;
      streams_.insert(stream);
    }
    ready_.push_back(std::move(stream));
  }
  wake_.notify_one();
}

bool StreamPump::WaitIdle(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, limit, [this] { return streams_.empty(); });
}

void StreamPump::Run() {
  Clock::time_point next_tick = Clock::now() + tick_;
  const auto something_to_do = [this] { return stopping_ || !ready_.empty(); };
  while (true) {
    Streams ready;
    {
      std::unique_lock lock(mutex_);
      if (streams_.empty()) {
        wake_.wait(lock, something_to_do);
      } else {
        wake_.wait_until(lock, next_tick, something_to_do);
      }
      if (stopping_) return;
      ready.swap(ready_);
      for (const auto& stream : ready) stream->queued_ = false;
    }
    PumpAll(ready);
    const Clock::time_point now = Clock::now();
    if (now < next_tick) continue;
    next_tick = now + tick_;
    for (const auto& stream : StreamsNow()) stream->Tick(now);
  }
}

void StreamPump::PumpAll(const Streams& ready) {
  for (const auto& stream : ready) {
    // A wake may have come after the stream left ready_ and before its Pump saw what it was about.
    if (stream->ended_) continue;
    stream->ended_ = stream->Pump();
    if (!stream->ended_) continue;
    const std::lock_guard lock(mutex_);
    streams_.erase(stream);
    if (streams_.empty()) idle_.notify_all();
  }
}

StreamPump::Streams StreamPump::StreamsNow() {
  const std::lock_guard lock(mutex_);
  return Streams(streams_.begin(), streams_.end());
}

}  // namespace strata::server
