#include "kernels/cublas_places.h"

#include <glob.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace strata::kernels {
namespace {

// Appends the files that a shell would find.
void Match(const std::string& pattern, std::vector<std::string>* found) {
  glob_t matches = {};
  if (glob(pattern.c_str(), 0, nullptr, &matches) == 0) {
    found->insert(found->end(), matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  }
  globfree(&matches);
}

}  // namespace

std::vector<std::string> FindCublas() {
  const auto of_environment = [](const char* name, const char* below = "") -> std::string {
    const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
    return value == nullptr || *value == '\0' ? "" : absl::StrCat(value, below);
  };
  std::vector<std::string> found;
  for (const std::string& home : {of_environment("CUDA_HOME"), of_environment("CUDA_PATH"),
                                  std::string("/usr/local/cuda-13*")}) {
    if (!home.empty()) Match(absl::StrCat(home, "/lib64/", kCublas), &found);
  }
  for (const std::string& prefix : {of_environment("VIRTUAL_ENV"), of_environment("CONDA_PREFIX"),
                                    of_environment("HOME", "/.local"), std::string("/usr/local"),
                                    std::string("/usr"), std::string("/opt/conda")}) {
    if (prefix.empty()) continue;
    for (const char* const packages : {"site-packages", "dist-packages"}) {
      Match(absl::StrCat(prefix, "/lib/python3*/", packages, "/nvidia/cu13/lib/", kCublas), &found);
    }
  }
  return found;
}

}  // namespace strata::kernels
