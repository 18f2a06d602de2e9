#include "server/base/error_field.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace strata::server {

std::string FieldOf(std::string_view message) {
  const size_t colon = message.find(':');
  if (colon == std::string_view::npos) return "";
  const std::string_view field = message.substr(0, colon);
  const bool is_name = std::all_of(field.begin(), field.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '[' ||
           c == ']';
  });
  return is_name ? std::string(field) : "";
}

}  // namespace strata::server
