#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace strata::server {

// INVALID_ARGUMENT unless `text` is "*" or an origin as browsers write it, scheme://host[:port] in
// lower case with no path and no default port: any other text would never match.
absl::Status CheckOrigin(const std::string& text);

// Tells browsers which origins' pages may read answers (the protocol CORS of
// https://fetch.spec.whatwg.org). Only browsers obey; other clients are not affected.
// Immutable; any thread.
class Cors {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  Cors() = default;  // no headers at all
  // `origins` are as CheckOrigin requires; "*" alone stands for any origin.
  explicit Cors(std::vector<std::string> origins) : origins_(std::move(origins)) {}

  bool enabled() const { return !origins_.empty(); }

  // The headers of each answer to a request with this header Origin, empty if it has none.
  Headers ForAnswer(std::string_view origin) const;
  // Further headers of the answer to a preflight. `requested` is the list of headers that the page
  // will send, the header Access-Control-Request-Headers.
  Headers ForPreflight(std::string_view origin, std::string_view requested) const;

 private:
  bool any() const { return origins_.size() == 1 && origins_[0] == "*"; }
  bool Allows(std::string_view origin) const;

  std::vector<std::string> origins_;
};

}  // namespace strata::server
