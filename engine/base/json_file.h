#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace strata::engine {

// Reads every JSON from outside: a checkpoint's config, index and header, its tokenizer, a client's
// request. Nothing throws, recurses without bound or repeats the text: errors hold places and
// sizes, and at most the name of a key. A library of its own, strata_base, so that the tokenizer
// needs no engine.

// Most levels of nested objects and arrays, so that walking a value never overflows the stack.
inline constexpr int kMaxJsonDepth = 32;

// `name` stands for the text in errors: ParseJson("the body", text) may say "the body: not JSON,
// the error is at byte 5 of 9". INVALID_ARGUMENT, one line, for text that is not JSON, a lone
// surrogate, a Git LFS pointer, nesting beyond kMaxJsonDepth and an object with the same key twice.
// A UTF-8 byte-order mark before the text is skipped.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view name, std::string_view text);

// The whole of a regular file. NOT_FOUND if it is missing; INVALID_ARGUMENT if it is not a regular
// file, is unreadable, or is larger than `limit_bytes`.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path, size_t limit_bytes);

// ReadFile, then ParseJson; errors name the path.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& path, size_t limit_bytes);

// A name from such a file for an error line: printable characters, one line, cut to a sane length.
std::string Printable(std::string_view name);

}  // namespace strata::engine
