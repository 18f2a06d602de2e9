#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/tokenizer.h"

// Text to tokens and back, for fronts' answers without generation. Errors are INVALID_ARGUMENT and
// begin with `field`, the request's name of the argument.
namespace strata::server {

// Special tokens written in the text become their ids.
absl::StatusOr<std::vector<int32_t>> TokensOf(const Tokenizer& tokenizer, std::string_view field,
                                              std::string_view text, bool add_special_tokens);

// Valid UTF-8: U+FFFD replaces invalid bytes.
absl::StatusOr<std::string> TextOf(const Tokenizer& tokenizer, std::string_view field,
                                   std::span<const int32_t> ids, bool skip_special);

}  // namespace strata::server
