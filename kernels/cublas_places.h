#pragma once

#include <string>
#include <vector>

namespace strata::kernels {

inline constexpr const char* kCublas = "libcublasLt.so.13";

// Files named kCublas in places that the loader may not search, likeliest first: under CUDA_HOME,
// CUDA_PATH and /usr/local/cuda-13*, then among the Python packages (NVIDIA's wheels, which PyTorch
// brings: nvidia/cu13/lib) of VIRTUAL_ENV, CONDA_PREFIX, the user and the system. Any thread.
std::vector<std::string> FindCublas();

}  // namespace strata::kernels
