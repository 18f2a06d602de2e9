#pragma once

#include <cstdint>
#include <string_view>

namespace strata::server {

// The lines of a request up to its body, as they come in, before the library sees them.
class HttpHead {
 public:
  // The next line with its end, the request line first. False: the library is not to see it.
  bool Add(std::string_view line);

 private:
  int64_t num_lines_ = 0;
};

}  // namespace strata::server
