#pragma once

namespace strata::server {

// The version of this program, "0.1.0".
const char* Version();

}  // namespace strata::server
