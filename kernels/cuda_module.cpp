#include "kernels/cuda_module.h"

#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cublas_places.h"
#include "kernels/status_macros.h"

namespace strata::kernels {
namespace {

constexpr const char* kDriver = "libcuda.so.1";
constexpr const char* kModule = "libstrata_cuda.so";
constexpr const char* kLeastDriver = "NVIDIA's driver 580 or later is needed";

// kernels/cuda/module.cpp
using CreateFunction = void (*)(const BackendOptions*, std::unique_ptr<Backend>*, absl::Status*);

absl::Status Missing(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat("device cuda: ", what));
}

std::string LoaderError() {
  const char* error = dlerror();
  return error == nullptr ? "unknown error" : error;
}

std::filesystem::path ModulePath() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return program.parent_path() / kModule;
}

bool HasModule() {
  std::error_code error;
  return std::filesystem::exists(ModulePath(), error);
}

// Libraries stay loaded: their objects may live as long as the program.
absl::StatusOr<CreateFunction> LoadModule() {
  if (!HasModule()) return Missing(absl::StrCat("no ", kModule, " beside the program"));
  if (dlopen(kDriver, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return Missing(absl::StrCat("no driver, ", LoaderError(), "; ", kLeastDriver));
  }
  void* module = dlopen(ModulePath().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    // The module then links to a library of this name that is already loaded.
    const std::string error = LoaderError();
    for (const std::string& cublas : FindCublas()) {
      if (dlopen(cublas.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) continue;
      module = dlopen(ModulePath().c_str(), RTLD_NOW | RTLD_LOCAL);
      break;
    }
    if (module == nullptr) return Missing(error);
  }
  void* const create = dlsym(module, "strata_create_cuda_backend");
  if (create == nullptr) return Missing(LoaderError());
  return reinterpret_cast<CreateFunction>(create);
}

}  // namespace

bool MayHaveCuda() { return HasModule() || dlopen(kDriver, RTLD_NOW | RTLD_GLOBAL) != nullptr; }

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  ASSIGN_OR_RETURN(const CreateFunction create, LoadModule());
  std::unique_ptr<Backend> backend;
  absl::Status status;
  create(&options, &backend, &status);
  if (!status.ok()) return status;
  return backend;
}

}  // namespace strata::kernels
