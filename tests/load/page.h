#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace strata::load {

// One HTML file that shows reports side by side: figures, and plots that its script draws from its
// data. It asks the network for nothing.
std::string MakePage(const std::vector<nlohmann::ordered_json>& reports);

}  // namespace strata::load
