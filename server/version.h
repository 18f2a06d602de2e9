#pragma once

namespace strata::server {

// Of this program, "0.1.0".
const char* Version();

}  // namespace strata::server
