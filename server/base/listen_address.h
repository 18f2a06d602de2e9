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

  // Whether only this machine can reach it.
  bool IsLoopback() const;
};

}  // namespace strata::server
