#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

// Abseil may be built with a string_view of its own, as in Debian; these take the standard's.
namespace strata::server {

template <typename T>
auto ToAbsl(const T& part) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    const std::string_view text = part;
    return absl::string_view(text.data(), text.size());
  } else {
    return part;
  }
}

// absl::StrCat for texts and numbers.
template <typename... Parts>
std::string Concat(const Parts&... parts) {
  return absl::StrCat(ToAbsl(parts)...);
}

// For hash maps by std::string that are searched by std::string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using StringEqual = std::equal_to<>;

// `*text` with every `from` replaced, left to right. REQUIRES: `from` is not empty.
inline void ReplaceAll(std::string_view from, std::string_view to, std::string* text) {
  size_t found = text->find(from);
  if (found == std::string::npos) return;
  std::string out;
  size_t copied = 0;
  for (; found != std::string::npos; found = text->find(from, copied)) {
    out.append(*text, copied, found - copied).append(to);
    copied = found + from.size();
  }
  *text = out.append(*text, copied);
}

}  // namespace strata::server
