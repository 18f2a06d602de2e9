#include "kernels/cgroup.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace strata::kernels {
namespace {

using LimitOf = std::function<int64_t(const std::string& directory)>;

// Version 1 says "no limit" as the highest number of whole pages.
constexpr int64_t kNoLimit = int64_t{1} << 62;

int64_t Tighter(int64_t a, int64_t b) {
  if (a == 0 || b == 0) return std::max(a, b);
  return std::min(a, b);
}

// The tightest limit of `path` under `mount` and of all its parents. Inside a container the path
// may not exist; its mount point then stands for the container's own group.
int64_t LimitOfPath(const std::string& mount, std::string path, const LimitOf& limit_of) {
  int64_t limit = limit_of(mount);
  for (; path.size() > 1; path.resize(path.rfind('/'))) {
    limit = Tighter(limit, limit_of(absl::StrCat(mount, path)));
    if (path.rfind('/') == std::string::npos) break;
  }
  return limit;
}

int64_t MemoryLimitOfDirectory(const std::string& directory) {
  for (const char* name : {"/memory.max", "/memory.limit_in_bytes"}) {
    const std::vector<std::string> words = CgroupWords(absl::StrCat(directory, name));
    int64_t bytes = 0;
    if (words.size() != 1 || !absl::SimpleAtoi(words[0], &bytes)) continue;  // "max"
    if (bytes > 0 && bytes < kNoLimit) return bytes;
  }
  return 0;
}

}  // namespace

std::vector<std::string> CgroupWords(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

int64_t TightestCgroupLimit(const std::string& proc_cgroup, const std::string& root,
                            const std::string& controller, const LimitOf& limit_of) {
  int64_t limit = 0;
  std::ifstream file(proc_cgroup);
  // "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1.
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      limit = Tighter(limit, LimitOfPath(root, parts[2], limit_of));
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), controller) == controllers.end()) {
      continue;
    }
    limit = Tighter(limit, LimitOfPath(absl::StrCat(root, "/", controller), parts[2], limit_of));
    if (parts[1] != controller) {
      limit = Tighter(limit, LimitOfPath(absl::StrCat(root, "/", parts[1]), parts[2], limit_of));
    }
  }
  return limit;
}

int64_t CgroupMemoryLimit(const std::string& proc_cgroup, const std::string& root) {
  return TightestCgroupLimit(proc_cgroup, root, "memory", MemoryLimitOfDirectory);
}

}  // namespace strata::kernels
