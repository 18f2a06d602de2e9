#include "server/free_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <vector>

#include "tests/support/sanitized.h"

namespace strata::server {
namespace {

size_t ResidentBytes() {
  size_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST(FreeMemoryTest, ReturnsPagesThatLieBetweenOnesInUse) {
  if (testing::kSanitized) GTEST_SKIP() << "the sanitizer's allocator decides for itself";
  FreeMemory free_memory;
  constexpr size_t kBlocks = 65536, kBlockBytes = 1024, kKept = 64;
  std::vector<std::unique_ptr<char[]>> blocks;
  for (size_t i = 0; i < kBlocks; ++i) {
    blocks.push_back(std::make_unique<char[]>(kBlockBytes));  // zeros: written to
  }
  for (size_t i = 0; i < kBlocks; ++i) {
    if (i % kKept != kKept - 1) blocks[i].reset();
  }
  const size_t held = ResidentBytes();
  free_memory.Return();
  EXPECT_LT(ResidentBytes() + kBlocks * kBlockBytes / 2, held);
}

}  // namespace
}  // namespace strata::server
