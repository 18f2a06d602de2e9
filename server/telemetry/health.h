#pragma once

namespace strata::server {

// Whether the server takes work; gRPC's health service and /readyz report the same.
enum class Health {
  kLoading,   // the model; nothing else is there yet
  kServing,   //
  kStalled,   // the engine makes no steps, see Watchdog
  kFailed,    // so has the device: the process ends, and must be started again
  kDraining,  // for good
};

}  // namespace strata::server
