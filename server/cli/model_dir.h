#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace strata::server {

// The directory named by --model; without one the model that ships with Strata, in the source tree
// around build/bin, else in the installation around bin. NOT_FOUND naming both places.
absl::StatusOr<std::filesystem::path> FindModelDir(const std::string& flag);

}  // namespace strata::server
