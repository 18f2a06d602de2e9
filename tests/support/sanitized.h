#pragma once

namespace strata::testing {

// Whether sanitizers are on. Everything then takes several times as long, and tests of many
// combinations run a part of them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace strata::testing
