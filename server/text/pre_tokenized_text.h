#pragma once

#include <string>
#include <vector>

#include "server/text/regex.h"

namespace strata::server {

// A text on its way to the model, split into pieces: no merge crosses a border between two.
struct PreTokenizedText {
  std::string text;
  std::vector<TextRange> pieces;  // of text; ascending, not empty, without overlap
  bool at_start = true;           // whether the first piece begins where the user's text begins
};

}  // namespace strata::server
