#pragma once

#include <chrono>

#include "engine/base/types.h"

namespace strata::engine {

// The engine's only clock. It never goes back, even if the system's time changes.
using Clock = std::chrono::steady_clock;

inline double Seconds(Request::Time from, Request::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace strata::engine
