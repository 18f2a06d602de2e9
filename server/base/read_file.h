#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace strata::server {

// Reads a whole file. NOT_FOUND "option: cannot read PATH: the system's reason".
absl::StatusOr<std::string> ReadFile(const char* option, const std::string& path);

// The same for keys and certificates, which a byte-order mark in front would break:
// INVALID_ARGUMENT "option: PATH: begins with a byte-order mark".
absl::StatusOr<std::string> ReadCredentials(const char* option, const std::string& path);

}  // namespace strata::server
