#pragma once

#include <sstream>
#include <string>

namespace strata::testing {

// Of a scrape: the value behind `series`, such as "a_total" or "a{b=\"c\"}"; "absent" without one.
inline std::string ValueOf(const std::string& text, const std::string& series) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(series + " ", 0) == 0) return line.substr(series.size() + 1);
  }
  return "absent";
}

}  // namespace strata::testing
