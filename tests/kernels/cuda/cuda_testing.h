#pragma once

#include <functional>
#include <memory>

#include "gtest/gtest.h"
#include "kernels/backend.h"

// The CUDA backend under test: on a device, or its sources on fibers of the CPU
// (tests/support/cuda_on_cpu). The same tests run on both.
namespace strata::kernels {

std::unique_ptr<Backend> MakeCuda(bool batch_invariant = false);

// Calls `run` with a device's threads in several orders, where there is a choice: forward, backward
// and shuffled. What races between two barriers comes out differently.
void InEveryOrder(const std::function<void()>& run);

extern const bool kCudaIsEmulated;

// Why there is nothing to test here; "" where there is.
std::string WhyNoCuda();

// Skips its tests where there is no device.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoCuda(); !why.empty()) GTEST_SKIP() << why;
  }
};

}  // namespace strata::kernels
