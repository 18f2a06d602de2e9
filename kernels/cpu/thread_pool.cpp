#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cpu_count.h"

// A loop's life: the caller writes body_, count_, grain_ and opens a new loop number; workers join
// by adding one to the count of workers inside, as long as the loop is open; the caller runs ranges
// itself, closes the loop when none is left, and waits until no worker is inside. A worker that
// wakes late finds the loop closed and has delayed nobody.

namespace strata::kernels {
namespace {

constexpr uint32_t kInsideMask = 0x3ff;
constexpr uint32_t kOpen = 0x400;
constexpr uint32_t kNextLoop = 0x800;

constexpr uint32_t LoopNumber(uint32_t state) { return state / kNextLoop; }

constexpr int kSpins = 1000;  // of some 50 ns each

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Waits until done(state) holds, spinning first; returns the state for which it did.
template <class Done>
uint32_t Await(const std::atomic<uint32_t>& state, Done done) {
  uint32_t seen = state.load(std::memory_order_acquire);
  for (int i = 0; i < kSpins && !done(seen); ++i) {
    Pause();
    seen = state.load(std::memory_order_acquire);
  }
  while (!done(seen)) {
    state.wait(seen, std::memory_order_acquire);
    seen = state.load(std::memory_order_acquire);
  }
  return seen;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus) : cpus_(std::move(cpus)) {
  STRATA_CHECK(num_threads >= 1 && num_threads <= kMaxThreads, "the options were checked");
  parts_ = std::vector<Part>(static_cast<size_t>(num_threads));
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  for (int worker = 1; worker < num_threads; ++worker) {
    threads_.emplace_back([this, worker] {
      Bind(worker);
      WorkerLoop(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  state_.fetch_add(kNextLoop, std::memory_order_release);
  state_.notify_all();
}

void ThreadPool::Bind(int worker) const {
  if (!cpus_.empty()) RunOnCpu(cpus_[static_cast<size_t>(worker) % cpus_.size()]);
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain, Body body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (threads_.empty() || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) {
      body(begin, std::min(count, begin + grain), 0);
    }
    return;
  }
  body_ = &body;
  count_ = count;
  grain_ = grain;
  const int64_t ranges = (count + grain - 1) / grain;
  const auto workers = std::ssize(parts_);
  for (int64_t i = 0; i < workers; ++i) {
    Part& part = parts_[static_cast<size_t>(i)];
    part.next.store(ranges * i / workers, std::memory_order_relaxed);
    part.end = ranges * (i + 1) / workers;
  }
  const uint32_t number = LoopNumber(state_.load(std::memory_order_relaxed)) + 1;
  state_.store(number * kNextLoop | kOpen, std::memory_order_release);
  state_.notify_all();
  RunRanges(body, 0);
  state_.fetch_and(~kOpen, std::memory_order_relaxed);
  Await(state_, [](uint32_t state) { return (state & kInsideMask) == 0; });
}

void ThreadPool::RunRanges(const Body& body, int worker) {
  const size_t workers = parts_.size();
  for (size_t i = 0; i < workers; ++i) {
    Part& part = parts_[(static_cast<size_t>(worker) + i) % workers];
    // Loads first: a write to a finished part would slow the other readers of its line.
    while (part.next.load(std::memory_order_relaxed) < part.end) {
      const int64_t range = part.next.fetch_add(1, std::memory_order_relaxed);
      if (range >= part.end) break;
      body(range * grain_, std::min(count_, (range + 1) * grain_), worker);
    }
  }
}

// Whether this worker is now inside the loop that `state` was read from.
bool ThreadPool::Join(uint32_t state) {
  const uint32_t number = LoopNumber(state);
  while ((state & kOpen) != 0 && LoopNumber(state) == number) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void ThreadPool::WorkerLoop(int worker) {
  uint32_t last = 0;
  for (;;) {
    const uint32_t state = Await(state_, [last](uint32_t now) { return LoopNumber(now) != last; });
    if (stop_.load(std::memory_order_relaxed)) return;
    last = LoopNumber(state);
    if (!Join(state)) continue;
    RunRanges(*body_, worker);
    const uint32_t left = state_.fetch_sub(1, std::memory_order_release) - 1;
    if ((left & kInsideMask) == 0) state_.notify_all();
  }
}

}  // namespace strata::kernels
