#pragma once

#include <vector>

#include "engine/model/safetensors.h"

namespace strata::engine {

// The elements of a tensor as floats, which hold every F32, BF16 and F16 exactly. For a few small
// tensors that the host needs: norms, mixes.
std::vector<float> HostFloats(const TensorView& tensor);

}  // namespace strata::engine
