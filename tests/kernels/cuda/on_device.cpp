// MakeCuda() on the device of this machine.

#include "tests/kernels/cuda/cuda_testing.h"

namespace strata::kernels {

const bool kCudaIsEmulated = false;

std::unique_ptr<Backend> MakeCuda(bool batch_invariant) {
  auto backend = CreateBackend({.device = "cuda", .batch_invariant = batch_invariant});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return backend.ok() ? *std::move(backend) : nullptr;
}

void InEveryOrder(const std::function<void()>& run) { run(); }

std::string WhyNoCuda() {
  const auto backend = CreateBackend({.device = "cuda"});
  return backend.ok() ? "" : std::string(backend.status().message());
}

}  // namespace strata::kernels
