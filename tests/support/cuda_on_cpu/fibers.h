#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

// CUDA's threads on one thread of the CPU: every thread of a block is a fiber with its own stack,
// and blocks run one after the other. A fiber runs until it must wait for others: at a barrier of
// its block, or at a joint operation of its warp (a shuffle, a matrix instruction). Agreement of
// threads is checked: if some thread never comes to a meeting, or comes with another operation, the
// process ends with a message.
namespace cuda_on_cpu {

struct Index {
  uint32_t x = 0;
  uint32_t y = 0;
  uint32_t z = 0;
};

// Order in which fibers (and blocks) get their turns. A race between two meetings shows as a result
// that depends on the order.
enum class Order : uint8_t { kForward, kBackward, kShuffled };
void SetOrder(Order order, uint32_t seed = 0);
// Whether asynchronous copies are made at once. In backward order they are, so that a late reader
// of the overwritten memory sees the copy. Otherwise they are made as late as possible, so that a
// reader that does not wait sees the old contents.
bool CopiesAtOnce();

constexpr int kWarpLanes = 32;
constexpr int kMeetingWords = 16;  // that a lane can hand to its warp

// A place at which a known number of threads wait for each other.
struct Meeting {
  int expected = 0;
  int arrived = 0;
  uint32_t generation = 0;
  const char* what = "";  // operation of the waiting threads
};

struct Warp {
  Meeting meeting;
  // Words that lanes exchange, for this meeting and the one before: a lane may be ahead by one
  // meeting.
  uint32_t words[2][kWarpLanes][kMeetingWords];
};

// An asynchronous copy that was started.
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
  const Meeting* waiting = nullptr;  // waits for a change of its generation
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

// Waits for all threads that `meeting` expects.
void Meet(Meeting& meeting, const char* what);
// The block's barrier.
void MeetBlock();
// Hands `count` words to the warp and waits for it. Returns the words of all lanes.
using WarpWords = const uint32_t (*)[kMeetingWords];
WarpWords MeetWarp(const uint32_t* words, int count, const char* what);

// Runs `body` in every thread of a grid. Shared memory is exactly `shared_bytes` long and holds NaN
// and rubbish at first.
void RunGrid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body);

}  // namespace cuda_on_cpu
