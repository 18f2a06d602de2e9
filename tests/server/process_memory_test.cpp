#include "server/telemetry/process_memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/support/sanitized.h"

namespace strata::server {
namespace {

TEST(ProcessMemoryTest, PagesBetweenOnesInUseAreReturned) {
  if (testing::kSanitized) GTEST_SKIP() << "the sanitizer's allocator decides for itself";
  FreeMemory free_memory;
  constexpr size_t kBlocks = 65536, kBlockBytes = 1024, kKept = 64;
  const size_t before = AllocatedBytes();
  std::vector<std::unique_ptr<char[]>> blocks;
  for (size_t i = 0; i < kBlocks; ++i) {
    blocks.push_back(std::make_unique<char[]>(kBlockBytes));  // zeroed, so it is written to
  }
  EXPECT_GE(AllocatedBytes(), before + kBlocks * kBlockBytes);
  for (size_t i = 0; i < kBlocks; ++i) {
    if (i % kKept != kKept - 1) blocks[i].reset();
  }
  EXPECT_LT(AllocatedBytes(), before + kBlocks * kBlockBytes / 4);
  const size_t held = ResidentBytes();
  free_memory.Return();
  EXPECT_LT(ResidentBytes() + kBlocks * kBlockBytes / 2, held);
}

}  // namespace
}  // namespace strata::server
