#include "server/telemetry/process_memory.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRATA_ALLOCATOR_OF_SANITIZER
extern "C" size_t __sanitizer_get_current_allocated_bytes();  // GCC has no header for it
#endif

namespace strata::server {
namespace {

constexpr int kArenas = 16;
// glibc raises unset thresholds for good when a message of 16 MB is freed: each arena may then keep
// twice as much at its end, which malloc_trim does not return.
constexpr int kMapped = 1 << 20, kKeptAtEnd = 1 << 20;
constexpr size_t kWorthReturning = 16 << 20;

size_t Spare() {
  const size_t resident = ResidentBytes();
  return resident - std::min(resident, AllocatedBytes());
}

}  // namespace

size_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  size_t size = 0, resident = 0;
  if (!(file >> size >> resident)) return 0;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

size_t AllocatedBytes() {
#if defined(STRATA_ALLOCATOR_OF_SANITIZER)
  return __sanitizer_get_current_allocated_bytes();
#elif defined(__GLIBC__)
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

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
