// Memory of the CUDA backend, on a real or an emulated device.

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::cuda_memory_test {
namespace {

class CudaMemoryTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) backend_ = MakeCuda();
  }
  std::unique_ptr<Backend> backend_;
};

TEST_F(CudaMemoryTest, IsAlignedZeroedAndCopies) {
  EXPECT_TRUE(absl::StartsWith(backend_->Describe(), "cuda, ")) << backend_->Describe();
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, (size_t{9} << 20) + 3}) {
    auto buffer = backend_->Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ((*buffer)->size(), bytes);
    ASSERT_NE((*buffer)->data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    std::vector<std::byte> back(bytes, std::byte{1});
    backend_->CopyToHost(back, (*buffer)->data());
    EXPECT_EQ(back, std::vector<std::byte>(bytes));
    std::vector<std::byte> pattern(bytes);
    for (size_t i = 0; i < bytes; ++i) pattern[i] = static_cast<std::byte>(i * 7 + i / 251);
    backend_->CopyFromHost((*buffer)->data(), pattern);
    auto other = backend_->Allocate(bytes);
    backend_->Copy((*other)->data(), (*buffer)->data(), bytes);
    backend_->CopyToHost(back, (*other)->data());
    EXPECT_TRUE(back == pattern);
  }
}

// The caller may change the memory it handed over as soon as the call returns.
TEST_F(CudaMemoryTest, HostMemoryIsReadWhenItIsHandedOver) {
  constexpr size_t kCount = 300;
  constexpr size_t kBytes = size_t{100} << 10;  // all copies exceed the staging memory
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<std::byte> source(kBytes);
  for (size_t i = 0; i < kCount; ++i) {
    std::fill(source.begin(), source.end(), static_cast<std::byte>(i));
    buffers.push_back(*backend_->Allocate(kBytes));
    backend_->CopyFromHost(buffers.back()->data(), source);
  }
  for (size_t i = 0; i < kCount; ++i) {
    const auto back = Download<std::byte>(*backend_, *buffers[i]);
    ASSERT_EQ(back, std::vector<std::byte>(kBytes, static_cast<std::byte>(i))) << i;
  }
}

TEST_F(CudaMemoryTest, SaysHowMuchWasTooMuch) {
  for (const size_t bytes : {size_t{1} << 50, SIZE_MAX}) {
    const absl::Status status = backend_->Allocate(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(absl::StrContains(status.ToString(), absl::StrCat(bytes))) << status;
  }
  EXPECT_TRUE(backend_->Synchronize().ok()) << "running out of memory is no error of the device";
  EXPECT_TRUE(backend_->Allocate(1000).ok());
}

}  // namespace
}  // namespace strata::kernels::cuda_memory_test
