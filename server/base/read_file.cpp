#include "server/base/read_file.h"

#include <cerrno>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/file_marks.h"
#include "kvcache/base/errors.h"

namespace strata::server {

absl::StatusOr<std::string> ReadFile(const char* option, const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file.is_open()) text << file.rdbuf();
  // An empty file fails like a directory does, but gives no reason.
  if (file.is_open() && (text.good() || errno == 0)) return std::move(text).str();
  return absl::NotFoundError(
      absl::StrCat(option, ": cannot read ", path, ": ", std::generic_category().message(errno)));
}

absl::StatusOr<std::string> ReadCredentials(const char* option, const std::string& path) {
  auto text = ReadFile(option, path);
  if (!text.ok()) return text.status();
  RETURN_IF_ERROR(engine::RefuseByteOrderMark(absl::StrCat(option, ": ", path), *text));
  return text;
}

}  // namespace strata::server
