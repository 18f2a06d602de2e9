#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

// Options from the environment.
namespace strata::server {

// STRATA_CACHE_BYTES of --cache-bytes.
std::string VariableOf(const std::string& flag);

// Variables that are set and named like options but belong to no subcommand of `app`, most likely
// misspelt. Variables that Kubernetes sets for a service named strata are left out.
std::vector<std::string> UnknownVariables(const CLI::App& app);

}  // namespace strata::server
