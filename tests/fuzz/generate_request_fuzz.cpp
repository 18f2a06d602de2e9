// The bytes of a v1.GenerateRequest, from the wire to the engine's input.

#include <cstddef>
#include <cstdint>

#include "server/grpc/grpc_messages.h"
#include "server/grpc/grpc_server.h"
#include "tests/fuzz/request_fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool quiet = (strata::server::RouteLibraryLogs(), true);
  static_cast<void>(quiet);
  strata::v1::GenerateRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;  // as gRPC does
  strata::testing::FollowToTheEngine(strata::server::ParseRequest(message));
  return 0;
}
