#pragma once

#include <sstream>
#include <string>

namespace strata::testing {

// The value after `series` in a scrape, such as "a_total" or "a{b=\"c\"}"; "absent" without one.
inline std::string ValueOf(const std::string& text, const std::string& series) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(series + " ", 0) == 0) return line.substr(series.size() + 1);
  }
  return "absent";
}

}  // namespace strata::testing
