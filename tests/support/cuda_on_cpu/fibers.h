#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

// CUDA's threads on one thread of the CPU: every thread of a block is a fiber with a stack of its
// own, blocks run one after the other. A fiber runs until it has to wait for others: at a barrier
// of its block, or where its warp does something together (a shuffle, a matrix instruction). What
// threads must agree on is checked: a meeting that some thread never comes to, or comes to with
// something else in mind, ends the process with a message.
namespace cuda_on_cpu {

struct Index {
  uint32_t x = 0;
  uint32_t y = 0;
  uint32_t z = 0;
};

// In which order fibers (and blocks) get their turns. A race between two meetings shows as a result
// that depends on it.
enum class Order : uint8_t { kForward, kBackward, kShuffled };
void SetOrder(Order order, uint32_t seed = 0);
// An asynchronous copy may be made at once or when it is waited for: in backward order it is made
// at once, and who reads what it overwrites comes too late; else it is made as late as can be, and
// who does not wait reads what was there.
bool CopiesAtOnce();

constexpr int kWarpLanes = 32;
constexpr int kMeetingWords = 16;  // that a lane can hand to its warp

// Where a known number of threads wait for each other.
struct Meeting {
  int expected = 0;
  int arrived = 0;
  uint32_t generation = 0;
  const char* what = "";  // of those who wait
};

struct Warp {
  Meeting meeting;
  // What the lanes hand each other, for this meeting and the one before: a lane that is ahead can
  // be ahead by one.
  uint32_t words[2][kWarpLanes][kMeetingWords];
};

// An asynchronous copy that has been asked for.
struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;

  void Make() const;
};

struct Fiber {
  Index thread;
  int lane = 0;
  Warp* warp = nullptr;
  std::vector<std::vector<PendingCopy>> copies;  // groups, the last one still open

  void* stack_pointer = nullptr;
  std::byte* stack = nullptr;
  void* sanitizer_stack = nullptr;
  const Meeting* waiting = nullptr;  // for its generation to change
  uint32_t waiting_generation = 0;
  bool done = false;
};

struct Block {
  Index index;
  Index size;  // threads
  Index grid;  // blocks
  std::byte* shared = nullptr;
  Meeting barrier;
};

Fiber& Self();
Block& CurrentBlock();

// Waits for all that `meeting` expects.
void Meet(Meeting& meeting, const char* what);
// The block's barrier.
void MeetBlock();
// Hands `count` words to the warp and waits for it. Returns everybody's words.
using WarpWords = const uint32_t (*)[kMeetingWords];
WarpWords MeetWarp(const uint32_t* words, int count, const char* what);

// Runs `body` in every thread of a grid. Shared memory is `shared_bytes` to the byte and holds
// NaN and rubbish at first.
void RunGrid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body);

}  // namespace cuda_on_cpu
