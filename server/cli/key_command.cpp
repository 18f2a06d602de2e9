#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/cli/commands.h"
#include "server/cli/standard_output.h"
#include "server/security/api_keys.h"

namespace strata::server {

absl::Status RunKey(const KeyOptions& options) {
  ASSIGN_OR_RETURN(const auto key, DrawKey());
  const std::string line =
      KeyLineText({.name = *options.name,
                   .digest = DigestOf(key),
                   .limits = {.requests_per_second = options.requests_per_second.value_or(0),
                              .concurrent = options.concurrent.value_or(0)}});
  if (const auto parsed = ParseKeyLines(line); !parsed.ok()) return parsed.status();
  return WriteToStdout(absl::StrCat(key, "\n", line, "\n"));
}

}  // namespace strata::server
