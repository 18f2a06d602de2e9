#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace strata::server {

// INVALID_ARGUMENT unless `text` is "*" or an origin as browsers write it, scheme://host[:port] in
// lower case with no path and no default port: any other text would never be met.
absl::Status CheckOrigin(const std::string& text);

// Says which origins' pages may read answers in a browser (the protocol CORS of
// https://fetch.spec.whatwg.org). The browser obeys; other clients are not concerned.
// Immutable; any thread.
class Cors {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  Cors() = default;  // no headers at all
  // Origins as CheckOrigin has them; "*" alone stands for any origin.
  explicit Cors(std::vector<std::string> origins) : origins_(std::move(origins)) {}

  bool enabled() const { return !origins_.empty(); }

  // The headers of each answer to a request with this header Origin, empty if it has none.
  Headers ForAnswer(std::string_view origin) const;
  // Further headers of the answer to a preflight. `requested` is the list that the page wants to
  // send, the header Access-Control-Request-Headers.
  Headers ForPreflight(std::string_view origin, std::string_view requested) const;

 private:
  bool any() const { return origins_.size() == 1 && origins_[0] == "*"; }
  bool Allows(std::string_view origin) const;

  std::vector<std::string> origins_;
};

}  // namespace strata::server
