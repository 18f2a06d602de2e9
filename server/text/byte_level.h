#pragma once

#include <string>
#include <string_view>

// GPT-2's reversible spelling of bytes as printable characters: every byte is one character, so
// any text can be split and merged without an unknown token. " " is "Ġ" and "\n" is "Ċ".
// Pure functions, any thread.
namespace strata::server {

// Appends one character for each byte of `bytes`.
void AppendByteLevel(std::string_view bytes, std::string* out);

// Appends the bytes spelled by `text`; a text with any other character is appended unchanged.
void AppendFromByteLevel(std::string_view text, std::string* out);

// GPT-2's pattern for splitting a text before merging.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace strata::server
