#pragma once

#include <string>
#include <string_view>

namespace strata::server {

// "temperature" of "temperature: -1, must be at least 0"; empty where the message names no field.
std::string FieldOf(std::string_view message);

}  // namespace strata::server
