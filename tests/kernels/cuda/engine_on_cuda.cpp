// Runs the engine's own tests on the CUDA backend. STRATA_TEST_BATCH_INVARIANT=off: without batch
// invariance.

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/engine_runner.h"

namespace strata::testing {
namespace {

const bool kSet = [] {
  const char* const value = std::getenv("STRATA_TEST_BATCH_INVARIANT");
  const bool invariant = value == nullptr || std::string_view(value) != "off";
  SetTestBackend(
      [invariant] {
        if (const auto why = kernels::WhyNoCuda(); !why.empty()) throw std::runtime_error(why);
        return kernels::MakeCuda(invariant);
      },
      kernels::kCudaIsEmulated);
  return true;
}();

}  // namespace
}  // namespace strata::testing
