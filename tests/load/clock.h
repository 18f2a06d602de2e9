#pragma once

#include <chrono>

namespace strata::load {

// A moment of a run, or a length of time: nanoseconds, from the moment its clock was made.
using Time = std::chrono::nanoseconds;

inline double Seconds(Time time) { return std::chrono::duration<double>(time).count(); }
// Rounded down to a nanosecond. REQUIRES: less than 292 years.
inline Time FromSeconds(double seconds) {
  return std::chrono::duration_cast<Time>(std::chrono::duration<double>(seconds));
}

// Source of a run's times. Tests bring their own.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time Now() = 0;   // time of all measurements
  virtual Time Wall() = 0;  // the machine's time of day, from the same zero; may be set
};

// The machine's clock that is never set. Any thread.
class SteadyClock final : public Clock {
 public:
  Time Now() override { return std::chrono::steady_clock::now() - began_; }
  Time Wall() override { return std::chrono::system_clock::now() - wall_began_; }

 private:
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  const std::chrono::system_clock::time_point wall_began_ = std::chrono::system_clock::now();
};

}  // namespace strata::load
