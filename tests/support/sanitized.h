#pragma once

namespace strata::testing {

// Whether sanitizers watch. Everything takes several times as long then, and a test that goes
// through many combinations goes through a part of them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace strata::testing
