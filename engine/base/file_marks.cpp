#include "engine/base/file_marks.h"

#include <string_view>

#include "kvcache/base/errors.h"

namespace strata::engine {

absl::Status RefuseLfsPointer(std::string_view name, std::string_view content) {
  // Every version of the format begins so.
  if (!content.starts_with("version https://git-lfs.github.com/spec/")) return absl::OkStatus();
  return InvalidArgument(name, ": a Git LFS pointer, not the file itself; run git lfs pull");
}

absl::Status RefuseByteOrderMark(std::string_view name, std::string_view text) {
  constexpr std::string_view kAdvice = "; save the file as UTF-8 without one";
  if (text.starts_with("\xEF\xBB\xBF")) {
    return InvalidArgument(name, ": begins with a byte-order mark", kAdvice);
  }
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) {
    return InvalidArgument(name, ": begins with a byte-order mark of UTF-16", kAdvice);
  }
  return absl::OkStatus();
}

}  // namespace strata::engine
