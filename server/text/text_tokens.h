#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/tokenizer.h"

// Text to tokens and back, as the fronts answer it without generating anything. Errors are
// INVALID_ARGUMENT and begin with `field`, as the request calls the argument.
namespace strata::server {

// Special tokens that are written in the text become their ids.
absl::StatusOr<std::vector<int32_t>> TokensOf(const Tokenizer& tokenizer, std::string_view field,
                                              std::string_view text, bool add_special_tokens);

// Valid UTF-8: U+FFFD stands for bytes that are not.
absl::StatusOr<std::string> TextOf(const Tokenizer& tokenizer, std::string_view field,
                                   std::span<const int32_t> ids, bool skip_special);

}  // namespace strata::server
