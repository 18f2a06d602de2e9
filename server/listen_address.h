#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace strata::server {

// HOST:PORT of a flag: "127.0.0.1:50051", "[::1]:0", "localhost:50051".
struct ListenAddress {
  std::string host;  // with its brackets
  int port = 0;

  // INVALID_ARGUMENT naming value and limit.
  static absl::StatusOr<ListenAddress> Parse(const std::string& text);

  // Why the system refuses to bind here, in its own words ("Address already in use"): gRPC only
  // tells that it could not.
  std::string WhyNotBound() const;
};

}  // namespace strata::server
