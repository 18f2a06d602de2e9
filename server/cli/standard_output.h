#pragma once

#include <string>

#include "absl/status/status.h"

namespace strata::server {

// Writes all of `text` to standard output at once, without a buffer. An error with one line naming
// the system's reason (a full disk); with an empty message if the reader has closed the pipe. A
// closed pipe must not kill the process: SIGPIPE is ignored from then on.
absl::Status WriteToStdout(const std::string& text);

}  // namespace strata::server
