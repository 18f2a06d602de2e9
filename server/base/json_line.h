#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace strata::server {

// In one line; U+FFFD stands for bytes that are not UTF-8.
inline std::string JsonLine(const nlohmann::json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

}  // namespace strata::server
