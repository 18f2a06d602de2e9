#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace strata::engine {

// Every JSON that comes from outside is read here: a checkpoint's config, index and header, its
// tokenizer, a client's request. Nothing throws, recurses without bound or repeats what it read:
// errors hold places and sizes, and of the text at most the name of a key. A library of its own,
// strata_json, so that the tokenizer needs no engine.

// Objects and arrays may stand in one another this deep, so that walking a value never overflows
// the stack.
inline constexpr int kMaxJsonDepth = 32;

// `name` stands for the text in errors: ParseJson("the body", text) may say "the body: not JSON,
// the error is at byte 5 of 9". INVALID_ARGUMENT, one line, for text that is not JSON, a lone
// surrogate, a Git LFS pointer, nesting beyond kMaxJsonDepth and a key that an object holds twice.
// A UTF-8 byte-order mark before the text is skipped.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view name, std::string_view text);

// The whole of a regular file. NOT_FOUND when it is missing; INVALID_ARGUMENT when it is a
// directory or anything else but a file, unreadable, or larger than `limit_bytes`.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path, size_t limit_bytes);

// ReadFile, then ParseJson; errors name the path.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& path, size_t limit_bytes);

// For error lines: a name out of such a file in printable characters, one line, cut to a sane
// length.
std::string Printable(std::string_view name);
// A value likewise, in JSON's own notation.
std::string PrintableJson(const nlohmann::json& value);

}  // namespace strata::engine
