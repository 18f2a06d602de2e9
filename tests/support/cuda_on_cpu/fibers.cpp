#include "tests/support/cuda_on_cpu/fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "fibers switch stacks by hand: x86-64 only"
#endif

// void SwitchStack(void** save, void* load): saves the callee-saved registers on the stack it
// leaves, and goes on at the place where `load` was left.
extern "C" void StrataSwitchStack(void** save, void* load);
asm(R"(
.text
.globl StrataSwitchStack
.type StrataSwitchStack, @function
StrataSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size StrataSwitchStack, .-StrataSwitchStack
)");

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;  // the sanitizers' frames are large
constexpr size_t kMaxThreads = 1024;               // of a block, as on a device

Order g_order = Order::kForward;
uint32_t g_seed = 0;

[[noreturn]] void Fail(const char* why, const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s (%s)\n", why, what);
  std::abort();
}

std::vector<size_t> MakeOrder(size_t count, uint32_t salt) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  if (g_order == Order::kBackward) std::reverse(order.begin(), order.end());
  if (g_order == Order::kShuffled) {
    std::shuffle(order.begin(), order.end(), std::minstd_rand(g_seed + salt));
  }
  return order;
}

// Runs the blocks of a grid, one at a time, on the calling thread.
class Runner {
 public:
  void Run(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body) {
    const size_t threads = size_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > kMaxThreads) Fail("a block of so many threads", "launch");
    body_ = &body;
    order_ = MakeOrder(threads, 1);
    block_.size = block;
    block_.grid = grid;
    const size_t blocks = size_t{grid.x} * grid.y * grid.z;
    for (const size_t i : MakeOrder(blocks, 2)) {
      block_.index = {static_cast<uint32_t>(i % grid.x), static_cast<uint32_t>(i / grid.x % grid.y),
                      static_cast<uint32_t>(i / grid.x / grid.y)};
      RunBlock(threads, shared_bytes);
    }
  }

  Fiber& self() { return fibers_[order_[at_]]; }
  Block& block() { return block_; }

  // Gives the turn to the next fiber that can run.
  void Wait(const Meeting& meeting) {
    Fiber& from = self();
    from.waiting = &meeting;
    from.waiting_generation = meeting.generation;
    const size_t next = NextRunnable();
    if (next == kNone) Fail("threads wait for others that never come", meeting.what);
    at_ = next;
    SwitchTo(&from.stack_pointer, &from.sanitizer_stack, self().stack_pointer, self().stack);
    from.waiting = nullptr;
  }

  // The first thing a fiber does.
  void Start() {
    FinishSwitch(nullptr);
    (*body_)();
    Fiber& fiber = self();
    for (const auto& group : fiber.copies) {
      if (!group.empty()) Fail("a thread ends with copies under way", "cp.async");
    }
    fiber.done = true;
    if (--running_ == 0) {
      SwitchTo(&fiber.stack_pointer, nullptr, main_stack_pointer_, nullptr);
    }
    const size_t next = NextRunnable();
    if (next == kNone) Fail("threads wait for one that has ended", "the end of a thread");
    at_ = next;
    SwitchTo(&fiber.stack_pointer, nullptr, self().stack_pointer, self().stack);
  }

 private:
  static constexpr size_t kNone = SIZE_MAX;

  void RunBlock(size_t threads, size_t shared_bytes) {
    // Exact to the byte, so that AddressSanitizer sees accesses beyond it.
    void* memory = nullptr;
    if (shared_bytes > 0 && posix_memalign(&memory, 128, shared_bytes) != 0) {
      Fail("no memory for a block", "launch");
    }
    const std::unique_ptr<void, void (*)(void*)> shared(memory, std::free);
    if (memory != nullptr) std::memset(memory, 0xff, shared_bytes);
    block_.shared = static_cast<std::byte*>(memory);
    block_.barrier = {.expected = static_cast<int>(threads)};
    const size_t warps = (threads + kWarpLanes - 1) / kWarpLanes;
    if (warps_.size() < warps) warps_.resize(warps);
    for (size_t i = 0; i < warps; ++i) {
      warps_[i].meeting = {
          .expected = static_cast<int>(std::min<size_t>(kWarpLanes, threads - i * kWarpLanes))};
    }
    if (fibers_.size() < threads) fibers_.resize(threads);
    for (size_t i = 0; i < threads; ++i) Prepare(i);
    running_ = threads;
    at_ = 0;
    SwitchTo(&main_stack_pointer_, &main_sanitizer_stack_, self().stack_pointer, self().stack);
    block_.shared = nullptr;
  }

  void Prepare(size_t i);

  size_t NextRunnable() const {
    const size_t count = order_.size();
    for (size_t step = 1; step <= count; ++step) {
      const size_t at = at_ + step < count ? at_ + step : at_ + step - count;
      const Fiber& fiber = fibers_[order_[at]];
      if (fiber.done) continue;
      if (fiber.waiting == nullptr || fiber.waiting->generation != fiber.waiting_generation) {
        return at;
      }
    }
    return kNone;
  }

  // A null `stack` is the thread's own; a null `sanitizer_stack` means that this fiber ends.
  void SwitchTo(void** save, [[maybe_unused]] void** sanitizer_stack, void* load,
                [[maybe_unused]] std::byte* stack) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom = stack == nullptr ? main_bottom_ : stack;
    const size_t size = stack == nullptr ? main_size_ : kStackBytes;
    __sanitizer_start_switch_fiber(sanitizer_stack, bottom, size);
#endif
    StrataSwitchStack(save, load);
    FinishSwitch(sanitizer_stack == nullptr ? nullptr : *sanitizer_stack);
  }
  void FinishSwitch([[maybe_unused]] void* sanitizer_stack) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(sanitizer_stack, &bottom, &size);
    if (sanitizer_stack == nullptr && main_bottom_ == nullptr) {
      main_bottom_ = bottom;  // the thread itself started the first fiber
      main_size_ = size;
    }
#endif
  }

  const std::function<void()>* body_ = nullptr;
  Block block_;
  std::vector<Warp> warps_;
  std::vector<Fiber> fibers_;
  std::vector<size_t> order_;
  size_t at_ = 0;  // place in order_ of the fiber whose turn it is
  size_t running_ = 0;
  void* main_stack_pointer_ = nullptr;
  void* main_sanitizer_stack_ = nullptr;
  const void* main_bottom_ = nullptr;
  size_t main_size_ = 0;
};

thread_local Runner g_runner;

void StartFiber() { g_runner.Start(); }

void Runner::Prepare(size_t i) {
  Fiber& fiber = fibers_[i];
  if (fiber.stack == nullptr) {
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) Fail("no memory for stacks", "mmap");
    fiber.stack = static_cast<std::byte*>(stack);
  }
  const auto linear = static_cast<uint32_t>(i);
  fiber.thread = {linear % block_.size.x, linear / block_.size.x % block_.size.y,
                  linear / block_.size.x / block_.size.y};
  fiber.lane = static_cast<int>(i % kWarpLanes);
  fiber.warp = &warps_[i / kWarpLanes];
  fiber.copies.resize(1);
  fiber.copies[0].clear();
  fiber.waiting = nullptr;
  fiber.done = false;
  // As if StartFiber had been called: six registers, its address, and a return address that is
  // never used. The stack is then aligned as at a function's entry. Stacks begin in different lines
  // of the caches.
  auto* top = reinterpret_cast<void**>(fiber.stack + kStackBytes - i % 64 * 1088);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&StartFiber);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  fiber.stack_pointer = top;
}

}  // namespace

void SetOrder(Order order, uint32_t seed) {
  g_order = order;
  g_seed = seed;
}

bool CopiesAtOnce() { return g_order == Order::kBackward; }

void PendingCopy::Make() const {
  if (from == nullptr) {
    std::memset(to, 0, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

Fiber& Self() { return g_runner.self(); }
Block& CurrentBlock() { return g_runner.block(); }

void Meet(Meeting& meeting, const char* what) {
  if (meeting.arrived > 0 && meeting.what != what && std::strcmp(meeting.what, what) != 0) {
    std::fprintf(stderr, "cuda_on_cpu: some threads are at %s\n", meeting.what);
    Fail("threads meet for different things", what);
  }
  meeting.what = what;
  if (++meeting.arrived == meeting.expected) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  g_runner.Wait(meeting);
}

void MeetBlock() { Meet(CurrentBlock().barrier, "__syncthreads"); }

WarpWords MeetWarp(const uint32_t* words, int count, const char* what) {
  Fiber& fiber = Self();
  Warp& warp = *fiber.warp;
  if (warp.meeting.expected != kWarpLanes) Fail("the warp is not full", what);
  auto& slots = warp.words[warp.meeting.generation % 2];
  std::copy_n(words, count, slots[fiber.lane]);
  Meet(warp.meeting, what);
  return slots;
}

void RunGrid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body) {
  g_runner.Run(grid, block, shared_bytes, body);
}

}  // namespace cuda_on_cpu
