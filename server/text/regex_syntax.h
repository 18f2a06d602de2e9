#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace strata::server {

// The PCRE2 pattern that matches what Oniguruma's `pattern` matches; see Regex. INVALID_ARGUMENT
// for what has no such form. A pattern that is not well formed may pass: PCRE2 refuses it.
//
//   TranslateOniguruma(R"(\p{N}{1,3}+)")  // R"((?:\p{N}{1,3})+)": there "+" is not possessive
absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern);

}  // namespace strata::server
