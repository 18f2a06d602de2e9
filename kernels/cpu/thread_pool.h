#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace strata::kernels {

// Threads that share one loop at a time with the caller. Between loops they spin for some tens of
// microseconds, since a forward pass starts the next loop at once, and then sleep.
//
// Threads: ParallelFor is called by one thread at a time, never from inside a body.
//
//   pool.ParallelFor(rows, 4, [&](int64_t begin, int64_t end, int worker) { ... });
class ThreadPool {
 public:
  using Body = absl::FunctionRef<void(int64_t begin, int64_t end, int worker)>;

  static constexpr int kMaxThreads = 256;

  // REQUIRES: 1 <= num_threads <= kMaxThreads. The caller is one of them. Unless `cpus` is empty
  // worker i runs on cpus[i % size] alone; worker 0 from when it calls BindCaller().
  explicit ThreadPool(int num_threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Called by the thread that will call ParallelFor from now on.
  void BindCaller() const { Bind(0); }

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(begin, end, worker) for half-open ranges of `grain` (the last may be shorter) that
  // together are [0, count), worker in [0, num_threads). Ranges start at multiples of `grain`. Each
  // worker first runs through a part of its own, so that it reads memory in order, and then helps
  // with the other parts. A worker that the system has suspended is waited for only if it holds a
  // range. Returns when all ranges are done. Allocates nothing.
  void ParallelFor(int64_t count, int64_t grain, Body body);

 private:
  // Ranges [next, end) that no worker has taken.
  struct alignas(64) Part {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void Bind(int worker) const;
  void WorkerLoop(int worker);
  void RunRanges(const Body& body, int worker);
  bool Join(uint32_t state);

  const std::vector<int> cpus_;

  // The loop at hand; written while no worker is inside one.
  const Body* body_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  std::vector<Part> parts_;  // one for each worker

  // Loop number in the high bits, then whether it may still be joined, then how many workers are
  // inside. See thread_pool.cpp.
  std::atomic<uint32_t> state_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::jthread> threads_;
};

}  // namespace strata::kernels
