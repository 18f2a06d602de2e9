#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvcache/base/json_reader.h"
#include "nlohmann/json.hpp"

namespace strata::server {

// The JSON object that a client sent. INVALID_ARGUMENT as engine::ParseJson, or if it is no object.
// Errors repeat nothing of the body but a key that is there twice.
absl::StatusOr<nlohmann::json> ParseBody(std::string_view body);

// In one line; U+FFFD stands for bytes that are not UTF-8.
std::string JsonLine(const nlohmann::json& document);

}  // namespace strata::server
