#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kvcache/base/errors.h"

// Details of an error for programs, beside the message for people: data that the status carries as
// payloads. An OK status carries none. Any thread.
namespace strata {

// The error code for a prompt that is too long, alone or with max_tokens.
inline constexpr char kContextLengthExceeded[] = "context_length_exceeded";

// The code that distinguishes errors of one status code, by its name in OpenAI's API. Empty: none.
absl::Status WithErrorCode(absl::Status status, absl::string_view code);
std::string ErrorCodeOf(const absl::Status& status);

// The path of the request's field at fault ("temperature", "prompt[3]", "logit_bias"), or the name
// of the limit reached ("queue", "api_key"). Empty: none.
absl::Status WithField(absl::Status status, absl::string_view field);
std::string FieldOf(const absl::Status& status);

// The time until the caller may try again; with RESOURCE_EXHAUSTED.
absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds delay);
std::optional<std::chrono::milliseconds> RetryAfterOf(const absl::Status& status);

// The same error with "FIELD: " before its message, and the field as data. Other payloads stay.
absl::Status InField(absl::string_view field, const absl::Status& status);

// INVALID_ARGUMENT "FIELD: parts...", with the field as data.
template <typename... Parts>
absl::Status InvalidField(absl::string_view field, const Parts&... parts) {
  return InField(field, InvalidArgument(parts...));
}

}  // namespace strata
