#pragma once

#include <functional>
#include <memory>

#include "gtest/gtest.h"
#include "kernels/backend.h"

// The CUDA backend under test: on a device, or its sources on fibers of the CPU
// (tests/support/cuda_on_cpu). The same tests run on both.
namespace strata::kernels {

std::unique_ptr<Backend> MakeCuda(bool batch_invariant = false);

// Calls `run` with a device's threads in several orders: forward, backward and shuffled. On a real
// device, once. Races between two barriers give different results.
void InEveryOrder(const std::function<void()>& run);

extern const bool kCudaIsEmulated;

// The reason why there is nothing to test here; "" if there is a device.
std::string WhyNoCuda();

// Skips its tests if there is no device.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoCuda(); !why.empty()) GTEST_SKIP() << why;
  }
};

}  // namespace strata::kernels
