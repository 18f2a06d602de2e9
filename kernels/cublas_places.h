#pragma once

#include <string>
#include <vector>

namespace strata::kernels {

inline constexpr const char* kCublas = "libcublasLt.so.13";

// Files of that name where CUDA may have been put without telling the loader, likeliest first: under
// CUDA_HOME and CUDA_PATH, then among the packages of Python (NVIDIA's wheels, which PyTorch brings:
// nvidia/cu13/lib) of VIRTUAL_ENV, CONDA_PREFIX, the user and the system. Any thread.
std::vector<std::string> FindCublas();

}  // namespace strata::kernels
