// The cost of the load-test client itself: 1,000 streams of a token every 50 ms, 20,000 tokens a
// second, from a mock server in a process of its own. Reports the processor time of the client's
// thread and process as shares of the run, and the tokens a second that would fill a core.
//
//   build/bin/strata-load-bench
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <stdexcept>

#include "tests/load/grpc_transport.h"
#include "tests/load/mock_server.h"
#include "tests/load/run.h"
#include "tests/load/statistics.h"
#include "tests/load/workload.h"

namespace strata::testing {
namespace {

using std::chrono::milliseconds;

[[noreturn]] void Serve(int up, int down) {
  {
    const MockServer server({.first = milliseconds(50), .gap = milliseconds(50)});
    const std::string address = server.address() + '\0';
    if (write(up, address.data(), address.size()) < 0) _exit(1);
    char byte = 0;
    while (read(down, &byte, 1) > 0) {
    }
  }
  _exit(0);
}

double ProcessSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void Measure(const std::string& address, int32_t streams) {
  load::SteadyClock clock;
  load::Workload workload({.input = load::Lengths::Constant(32),
                           .output = load::Lengths::Constant(100),
                           .vocab_size = 1000,
                           .max_positions = 4096});
  load::GrpcTransport transport(address, /*connections=*/8, &clock);
  load::Schedule schedule{.users = streams,
                          .ramp = std::chrono::seconds(2),
                          .duration = std::chrono::seconds(10),
                          .drain = std::chrono::seconds(10),
                          .limit = std::chrono::seconds(60),
                          .warm_up = std::chrono::seconds(3),
                          .cool_down = std::chrono::seconds(1)};
  const double before = ProcessSeconds();
  const std::atomic<bool> never = false;
  const load::RunResult run = load::Run(schedule, &workload, &transport, &clock).Go(never);
  const double process = ProcessSeconds() - before;
  const load::Measures measures = load::Measure(run, {});
  std::printf("%7d  %8.0f  %12.0f %%  %13.0f %%  %20.0f\n", streams, measures.output_throughput,
              100 * run.busy_share, 100 * process / load::Seconds(run.end + schedule.cool_down),
              measures.output_throughput / run.busy_share);
  std::fflush(stdout);
}

}  // namespace
}  // namespace strata::testing

int main() {
  using namespace strata::testing;
  std::array<int, 2> up{}, down{};
  if (pipe(up.data()) != 0 || pipe(down.data()) != 0) throw std::runtime_error("pipe");
  const pid_t server = fork();  // before this process has threads
  if (server == 0) {
    close(down[1]);
    Serve(up[1], down[0]);
  }
  close(down[0]);
  std::array<char, 64> address{};
  if (read(up[0], address.data(), address.size()) <= 0) throw std::runtime_error("no server");
  std::printf("%7s  %8s  %14s  %15s  %20s\n", "streams", "tokens/s", "of its thread",
              "of its process", "tokens/s a full core");
  for (const int32_t streams : {100, 1000}) Measure(address.data(), streams);
  close(down[1]);
  waitpid(server, nullptr, 0);
}
