#pragma once

#include <atomic>

#include "tests/load/options.h"

namespace strata::load {

// Does what the command line says and writes what it found: figures on stdout, files where asked
// for, everything else on stderr. What was measured is written whatever ended it. Returns
//   0    every request that was not cancelled or rejected was answered
//   1    some failed, the server was not there or went away, or a file could not be written
//   130  `interrupted`, from any thread
int RunProgram(const Options& options, const std::atomic<bool>& interrupted);

}  // namespace strata::load
