#pragma once

#include <chrono>

#include "engine/base/types.h"

namespace strata::engine {

// The engine's only clock: it never goes back, whatever is done to the system's time.
using Clock = std::chrono::steady_clock;

inline double Seconds(Request::Time from, Request::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace strata::engine
