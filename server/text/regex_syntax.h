#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace strata::server {

// The PCRE2 pattern with the same matches as Oniguruma's `pattern`; see Regex. INVALID_ARGUMENT if
// there is none. A malformed pattern may pass: PCRE2 refuses it.
//
//   TranslateOniguruma(R"(\p{N}{1,3}+)")  // R"((?:\p{N}{1,3})+)": there "+" is not possessive
absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern);

}  // namespace strata::server
