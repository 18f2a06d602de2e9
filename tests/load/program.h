#pragma once

#include <atomic>

#include "tests/load/options.h"

namespace strata::load {

// Runs the command line and writes the results: figures on stdout, files if asked for, everything
// else on stderr. Measurements are written for every kind of end. Returns
//   0    every request that was not cancelled or rejected was answered
//   1    some failed, the server was not there or went away, or a file could not be written
//   130  `interrupted`, from any thread
int RunProgram(const Options& options, const std::atomic<bool>& interrupted);

}  // namespace strata::load
