#include "server/cli/standard_output.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace strata::server {

absl::Status WriteToStdout(const std::string& text) {
  std::signal(SIGPIPE, SIG_IGN);
  for (size_t written = 0; written < text.size();) {
    const ssize_t n = write(STDOUT_FILENO, text.data() + written, text.size() - written);
    if (n >= 0) {
      written += static_cast<size_t>(n);
    } else if (errno == EPIPE) {
      return absl::CancelledError("");
    } else if (errno != EINTR) {
      return absl::DataLossError(absl::StrCat("cannot write to standard output: ",
                                              std::generic_category().message(errno)));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::server
