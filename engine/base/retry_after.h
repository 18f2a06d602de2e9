#pragma once

#include <chrono>
#include <optional>

#include "absl/status/status.h"

namespace strata::engine {

// When to try again, carried by a status as a payload: by RESOURCE_EXHAUSTED of a full queue.
absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds delay);
std::optional<std::chrono::milliseconds> RetryAfterOf(const absl::Status& status);

}  // namespace strata::engine
