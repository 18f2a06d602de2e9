#include <atomic>
#include <cstdio>
#include <variant>

#include "server/cli/signal_watch.h"
#include "server/cli/standard_output.h"
#include "tests/load/options.h"
#include "tests/load/program.h"

// strata-loadtest: see README.md.
int main(int argc, char** argv) {
  using namespace strata;
  const auto command = load::ParseCommandLine(argc, argv);
  if (const auto* answer = std::get_if<load::Answer>(&command)) {
    if (answer->exit_code == 0) return server::WriteToStdout(answer->text).ok() ? 0 : 1;
    std::fprintf(stderr, "strata-loadtest: %s\n", answer->text.c_str());
    return answer->exit_code;
  }
  std::atomic<bool> interrupted = false;
  const server::SignalWatch signals([&interrupted] {
    std::fputs("strata-loadtest: ending; a second signal ends at once\n", stderr);
    interrupted = true;
  });
  return load::RunProgram(std::get<load::Options>(command), interrupted);
}
