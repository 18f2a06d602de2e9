#include "server/cli/model_dir.h"

#include <array>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace strata::server {

namespace fs = std::filesystem;

absl::StatusOr<fs::path> FindModelDir(const std::string& flag) {
  std::error_code error;
  if (!flag.empty() && fs::is_empty(flag, error) && !error) {
    return absl::NotFoundError(
        absl::StrCat("model: ", flag, " is empty; is what should be there mounted?"));
  }
  if (!flag.empty()) return fs::path(flag);
  const fs::path bin = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (error) {
    return absl::NotFoundError("cannot find the default model: /proc is not there; give --model");
  }
  const std::array<fs::path, 2> places = {
      (bin / "../../deploy/models/svformer").lexically_normal(),
      (bin / "../share/strata/models/svformer").lexically_normal()};
  for (const fs::path& place : places) {
    if (fs::is_directory(place, error)) return place;
  }
  return absl::NotFoundError(absl::StrCat("no default model in ", places[0].string(), " or ",
                                          places[1].string(), "; give --model DIR"));
}

}  // namespace strata::server
