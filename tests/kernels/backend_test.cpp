#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/cgroup.h"
#include "kernels/cpu/cpu_count.h"
#include "kernels/cublas_places.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::backend_test {
namespace {

TEST(CreateBackendTest, NamesWhatItGot) {
  const auto cpu = CreateBackend({.device = "cpu", .threads = 3});
  ASSERT_TRUE(cpu.ok());
  EXPECT_TRUE(absl::StartsWith((*cpu)->Describe(), "cpu, ")) << (*cpu)->Describe();
  EXPECT_TRUE(absl::EndsWith((*cpu)->Describe(), ", 3 threads")) << (*cpu)->Describe();
  EXPECT_TRUE((*cpu)->Synchronize().ok());
  EXPECT_TRUE(CreateBackend({.device = "auto"}).ok());
}

TEST(CreateBackendTest, RefusesWhatIsNotThere) {
  const absl::Status unknown = CreateBackend({.device = "tpu"}).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  for (const char* word : {"tpu", "auto", "cpu", "cuda"}) {
    EXPECT_TRUE(absl::StrContains(unknown.ToString(), word)) << unknown;
  }
  for (const int32_t threads : {-1, 257}) {
    const absl::Status status = CreateBackend({.device = "cpu", .threads = threads}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(absl::StrContains(status.ToString(), absl::StrCat(threads))) << status;
  }
  // The last is the baseline, without fused multiply-add on x86.
  const int64_t baseline = AllTargets().back();
  if ((baseline & (HWY_SCALAR | HWY_EMU128)) != 0) {
    const ScopedTarget scoped(baseline);
    const absl::Status status = CreateBackend({.device = "cpu"}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(status.ToString(), "AVX2")) << status;
  }
}

TEST(BufferTest, IsAlignedZeroedAndCopies) {
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, (size_t{5} << 20) + 3}) {
    auto buffer = backend->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ((*buffer)->size(), bytes);
    ASSERT_NE((*buffer)->data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    std::vector<std::byte> back(bytes, std::byte{1});
    backend->CopyToHost(back, (*buffer)->data());
    EXPECT_EQ(back, std::vector<std::byte>(bytes));
    const std::vector<std::byte> pattern(bytes, std::byte{0x5a});
    backend->CopyFromHost((*buffer)->data(), pattern);
    backend->CopyToHost(back, (*buffer)->data());
    EXPECT_EQ(back, pattern);
  }
}

TEST(BufferTest, SaysHowMuchWasTooMuch) {
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  for (const size_t bytes : {size_t{1} << 60, SIZE_MAX}) {
    const absl::Status status = backend->Allocate(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(absl::StrContains(status.ToString(), absl::StrCat(bytes))) << status;
  }
}

// If the module, the driver or a device is missing, one line says which. Otherwise the backend is
// made.
TEST(CreateBackendTest, SaysWhyThereIsNoCuda) {
  const auto cuda = CreateBackend({.device = "cuda"});
  if (cuda.ok()) {
    EXPECT_TRUE(absl::StartsWith((*cuda)->Describe(), "cuda, ")) << (*cuda)->Describe();
    return;
  }
  EXPECT_EQ(cuda.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StartsWith(cuda.status().message(), "device cuda: ")) << cuda.status();
  EXPECT_FALSE(absl::StrContains(cuda.status().message(), "\n")) << cuda.status();
}

// NVIDIA's wheels put cuBLAS in a place that no loader searches.
TEST(CreateBackendTest, FindsCublasAmongPackagesOfPython) {
  const std::filesystem::path root =
      std::filesystem::path(testing::TempDir()) / absl::StrCat("cublas_", ::getpid());
  const std::filesystem::path folder = root / "lib/python3.12/site-packages/nvidia/cu13/lib";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / kCublas) << "";
  for (const char* const variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    ASSERT_EQ(setenv(variable, root.c_str(), 1), 0);
    const std::vector<std::string> found = FindCublas();
    EXPECT_THAT(found, testing::Contains((folder / kCublas).string())) << variable;
    ASSERT_EQ(unsetenv(variable), 0);
    EXPECT_THAT(FindCublas(), testing::Not(testing::Contains((folder / kCublas).string())));
  }
  std::filesystem::create_directories(root / "lib64");
  std::ofstream(root / "lib64" / kCublas) << "";
  ASSERT_EQ(setenv("CUDA_HOME", root.c_str(), 1), 0);
  EXPECT_EQ(FindCublas().at(0), (root / "lib64" / kCublas).string());
  unsetenv("CUDA_HOME");
  std::filesystem::remove_all(root);
}

class CgroupTest : public testing::Test {
 protected:
  CgroupTest() { std::filesystem::remove_all(root_); }
  ~CgroupTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  int Limit() const { return CgroupCpuLimit(root_ / "proc", root_); }

  std::filesystem::path root_ =
      std::filesystem::path(testing::TempDir()) /
      absl::StrCat("cgroup_", testing::UnitTest::GetInstance()->random_seed(), "_",
                   testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(CgroupTest, NoGroupIsNoLimit) {
  EXPECT_EQ(Limit(), 0);
  Write("proc", "0::/\n");
  EXPECT_EQ(Limit(), 0);
  Write("cpu.max", "max 100000\n");
  EXPECT_EQ(Limit(), 0);
  EXPECT_GE(UsableCpus(), 1);
}

TEST_F(CgroupTest, TightestParentCountsAndRoundsUp) {
  Write("proc", "0::/a/b\n");
  Write("a/b/cpu.max", "max 100000\n");
  Write("a/cpu.max", "250000 100000\n");
  EXPECT_EQ(Limit(), 3);
  Write("a/b/cpu.max", "10000 100000\n");
  EXPECT_EQ(Limit(), 1);
}

TEST_F(CgroupTest, MemoryInBytes) {
  const auto limit = [this] { return CgroupMemoryLimit(root_ / "proc", root_); };
  Write("proc", "0::/a/b\n");
  Write("a/b/memory.max", "max\n");
  EXPECT_EQ(limit(), 0);
  Write("a/memory.max", "1073741824\n");
  EXPECT_EQ(limit(), 1 << 30);
  Write("memory.max", "4096\n");
  EXPECT_EQ(limit(), 4096);
  Write("proc", "4:memory:/x\n3:cpu:/y\n");
  Write("memory.max", "max\n");
  Write("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
  Write("cpu/y/memory.limit_in_bytes", "1\n");
  EXPECT_EQ(limit(), 0);
  Write("memory/memory.limit_in_bytes", "5000000000\n");
  EXPECT_EQ(limit(), 5'000'000'000);
}

TEST_F(CgroupTest, VersionOne) {
  Write("proc", "5:memory:/x\n4:cpu,cpuacct:/job\n");
  Write("cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  Write("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Limit(), 0);
  Write("cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n");
  EXPECT_EQ(Limit(), 4);
}

}  // namespace
}  // namespace strata::kernels::backend_test
