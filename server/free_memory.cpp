#include "server/free_memory.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace strata::server {
namespace {

constexpr int kArenas = 16;
// Where they are not set, a freed message of 16 MB raises them for good: each arena may then keep
// twice as much at its end, where malloc_trim does not look.
constexpr int kMapped = 1 << 20, kKeptAtEnd = 1 << 20;
constexpr size_t kWorthReturning = 16 << 20;

// Bytes of anonymous memory that the process has beyond what is allocated from malloc; 0 if the
// system does not say.
size_t Spare() {
  std::ifstream file("/proc/self/statm");
  size_t size = 0, resident = 0, shared = 0;
  if (!(file >> size >> resident >> shared)) return 0;
  const size_t held = (resident - shared) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const struct mallinfo2 allocated = mallinfo2();
  return held - std::min(held, allocated.uordblks + allocated.hblkhd);
}

}  // namespace

FreeMemory::FreeMemory() {
#ifdef __GLIBC__
  mallopt(M_ARENA_MAX, kArenas);
  mallopt(M_MMAP_THRESHOLD, kMapped);
  mallopt(M_TRIM_THRESHOLD, kKeptAtEnd);
#endif
}

void FreeMemory::Return() {
#ifdef __GLIBC__
  const size_t spare = Spare();
  spare_ = std::min(spare_, spare);
  if (spare < spare_ + kWorthReturning) return;
  malloc_trim(0);
  spare_ = Spare();
#endif
}

}  // namespace strata::server
