#include "server/cli/variables.h"

#include <unistd.h>

#include <set>
#include <string_view>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace strata::server {
namespace {

constexpr std::string_view kPrefix = "STRATA_";
constexpr const char* kKey = "STRATA_API_KEY";  // not an option: others can read a command line

// STRATA_SERVICE_HOST, STRATA_SERVICE_PORT_GRPC, STRATA_PORT, STRATA_PORT_50051_TCP_ADDR, and the
// same of a service named strata-something.
bool IsOfKubernetes(std::string_view name) {
  if (name.find("_SERVICE_HOST") != std::string_view::npos) return true;
  if (name.find("_SERVICE_PORT") != std::string_view::npos) return true;
  const size_t port = name.find("_PORT");
  if (port == std::string_view::npos) return false;
  const std::string_view rest = name.substr(port + std::string_view("_PORT").size());
  return rest.empty() || (rest.size() > 1 && rest[0] == '_' &&
                          absl::ascii_isdigit(static_cast<unsigned char>(rest[1])));
}

}  // namespace

std::string VariableOf(const std::string& flag) {
  const std::string name = absl::StrReplaceAll(flag.substr(2), {{"-", "_"}});
  return absl::StrCat("STRATA_", absl::AsciiStrToUpper(name));
}

std::vector<std::string> UnknownVariables(const CLI::App& app) {
  std::set<std::string, std::less<>> known = {kKey};
  for (const CLI::App* command : app.get_subcommands(/*filter=*/nullptr)) {
    for (const CLI::Option* option : command->get_options()) known.insert(option->get_envname());
  }
  std::vector<std::string> unknown;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('='));
    if (!name.starts_with(kPrefix) || known.contains(name) || IsOfKubernetes(name)) continue;
    unknown.emplace_back(name);
  }
  return unknown;
}

}  // namespace strata::server
