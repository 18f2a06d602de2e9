#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace strata::engine {

// A request's prompt, alone or with the tokens that are to follow it, is longer than can be served.
inline constexpr char kContextLengthExceeded[] = "context_length_exceeded";

// By what programs tell an error from others of its status code, carried by the status as a
// payload. The names are those of OpenAI's API. An OK status stays as it is.
absl::Status WithErrorCode(absl::Status status, absl::string_view code);
std::string ErrorCodeOf(const absl::Status& status);  // empty: it has none

}  // namespace strata::engine
