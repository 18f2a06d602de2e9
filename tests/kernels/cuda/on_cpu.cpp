// MakeCuda() without a device.

#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"

namespace strata::kernels {

const bool kCudaIsEmulated = true;

std::unique_ptr<Backend> MakeCuda(bool batch_invariant) {
  auto backend = cuda::CudaBackend::Create({.device = "cuda", .batch_invariant = batch_invariant});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return backend.ok() ? *std::move(backend) : nullptr;
}

void InEveryOrder(const std::function<void()>& run) {
  using cuda_on_cpu::Order;
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    SCOPED_TRACE(static_cast<int>(order));
    cuda_on_cpu::SetOrder(order, 17);
    run();
  }
  cuda_on_cpu::SetOrder(Order::kForward);
}

std::string WhyNoCuda() { return ""; }

}  // namespace strata::kernels
