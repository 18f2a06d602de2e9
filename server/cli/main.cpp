#include <cstdio>
#include <string>
#include <type_traits>
#include <variant>

#include "server/cli/commands.h"
#include "server/cli/options.h"
#include "server/cli/standard_output.h"

namespace strata::server {
namespace {

constexpr int kRuntimeError = 1;

void PrintError(const std::string& message) {
  if (!message.empty()) std::fprintf(stderr, "strata: %s\n", message.c_str());
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  PrintError(std::string(status.message()));
  return kRuntimeError;
}

int Print(const Answer& answer) {
  if (answer.exit_code == 0) return ExitCode(WriteToStdout(answer.text));
  PrintError(answer.text);
  return answer.exit_code;
}

struct Runner {
  int operator()(const Answer& answer) const { return Print(answer); }
  int operator()(const ServeOptions& options) const { return ExitCode(RunServe(options)); }
  int operator()(const GenerateOptions& options) const { return ExitCode(RunGenerate(options)); }
  int operator()(const PlanOptions& options) const { return ExitCode(RunPlan(options)); }
  int operator()(const EvalOptions& options) const { return ExitCode(RunEval(options)); }
  int operator()(const HealthOptions& options) const { return ExitCode(RunHealth(options)); }
  int operator()(const KeyOptions& options) const { return ExitCode(RunKey(options)); }
};

}  // namespace
}  // namespace strata::server

int main(int argc, char** argv) {
  return std::visit(strata::server::Runner{}, strata::server::ParseCommandLine(argc, argv));
}
