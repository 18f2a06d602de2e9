#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

// Sizes and times on the command line. Pure functions.
namespace strata::server {

// "64MiB", "1GiB", "500MB", "4096": bytes, with a unit of 1000 or 1024. INVALID_ARGUMENT naming the
// value.
absl::StatusOr<size_t> ParseBytes(const std::string& text);
// The largest unit of 1024 that leaves a whole number: "64MiB".
std::string FormatBytes(size_t bytes);

// "30s", "500ms", "1m30s"; at least 0, at most 24h. INVALID_ARGUMENT naming value and limit.
absl::StatusOr<std::chrono::milliseconds> ParseDuration(const std::string& text);
std::string FormatDuration(std::chrono::milliseconds duration);

}  // namespace strata::server
