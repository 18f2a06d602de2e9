#include "server/generation/stream_pump.h"

#include <utility>

namespace strata::server {

StreamPump::StreamPump(std::chrono::milliseconds tick) : tick_(tick), thread_([this] { Run(); }) {}

StreamPump::~StreamPump() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyOne();
  thread_.join();
}

void StreamPump::Wake(std::shared_ptr<Stream> stream) {
  {
    const MutexLock lock(mutex_);
    if (stream->queued_) return;
    stream->queued_ = true;
    if (!stream->known_) {
      stream->known_ = true;
      streams_.insert(stream);
    }
    ready_.push_back(std::move(stream));
  }
  wake_.NotifyOne();
}

bool StreamPump::WaitIdle(std::chrono::milliseconds limit) {
  const Clock::time_point end = Clock::now() + limit;
  const MutexLock lock(mutex_);
  while (!streams_.empty()) {
    if (!idle_.WaitUntil(mutex_, end)) return streams_.empty();
  }
  return true;
}

void StreamPump::Run() {
  Clock::time_point next_tick = Clock::now() + tick_;
  for (;;) {
    bool stopping = false;
    const Streams ready = WaitForReady(next_tick, &stopping);
    if (stopping) return;
    PumpAll(ready);
    const Clock::time_point now = Clock::now();
    if (now < next_tick) continue;
    next_tick = now + tick_;
    for (const auto& stream : StreamsNow()) stream->Tick(now);
  }
}

// Waits for ready streams, and returns them; empty if the next tick comes first.
StreamPump::Streams StreamPump::WaitForReady(Clock::time_point next_tick, bool* stopping) {
  const MutexLock lock(mutex_);
  while (!stopping_ && ready_.empty()) {
    if (streams_.empty()) {
      wake_.Wait(mutex_);
    } else if (!wake_.WaitUntil(mutex_, next_tick)) {
      break;
    }
  }
  *stopping = stopping_;
  for (const auto& stream : ready_) stream->queued_ = false;
  return std::exchange(ready_, {});
}

void StreamPump::PumpAll(const Streams& ready) {
  for (const auto& stream : ready) {
    // A wake may have come after the stream left ready_ and before its Pump saw the reason.
    if (stream->ended_) continue;
    stream->ended_ = stream->Pump();
    if (!stream->ended_) continue;
    const MutexLock lock(mutex_);
    streams_.erase(stream);
    if (streams_.empty()) idle_.NotifyAll();
  }
}

StreamPump::Streams StreamPump::StreamsNow() {
  const MutexLock lock(mutex_);
  return Streams(streams_.begin(), streams_.end());
}

}  // namespace strata::server
