#include "engine/model/model_name.h"

#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"

namespace strata::engine {

std::string ModelNameOf(const std::filesystem::path& dir) {
  constexpr char kRepository[] = "models--";
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(dir, error);  // for "."
  std::filesystem::path path = (error ? dir : absolute).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const std::filesystem::path snapshots = path.parent_path();
  const std::string repository = snapshots.parent_path().filename().string();
  if (snapshots.filename() != "snapshots" || !absl::StartsWith(repository, kRepository)) {
    return path.filename().string();
  }
  // No part of a repository's name has two hyphens in a row.
  return absl::StrReplaceAll(repository.substr(sizeof(kRepository) - 1), {{"--", "/"}});
}

}  // namespace strata::engine
