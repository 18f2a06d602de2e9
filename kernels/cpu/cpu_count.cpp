#include "kernels/cpu/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace strata::kernels {
namespace {

// The words of a small file; none if it cannot be read.
std::vector<std::string> Words(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

// Cores from "quota period", both in microseconds; 0 for "max", -1 or anything else.
int Cores(const std::string& quota_text, const std::string& period_text) {
  int64_t quota = 0;
  int64_t period = 0;
  if (!absl::SimpleAtoi(quota_text, &quota) || !absl::SimpleAtoi(period_text, &period)) return 0;
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::clamp<int64_t>((quota + period - 1) / period, 1, 1 << 20));
}

int LimitOfDirectory(const std::string& directory) {
  const std::vector<std::string> v2 = Words(absl::StrCat(directory, "/cpu.max"));
  if (v2.size() == 2) return Cores(v2[0], v2[1]);
  const std::vector<std::string> quota = Words(absl::StrCat(directory, "/cpu.cfs_quota_us"));
  const std::vector<std::string> period = Words(absl::StrCat(directory, "/cpu.cfs_period_us"));
  return quota.size() == 1 && period.size() == 1 ? Cores(quota[0], period[0]) : 0;
}

int Tighter(int a, int b) {
  if (a == 0 || b == 0) return std::max(a, b);
  return std::min(a, b);
}

// The tightest quota of `path` under `mount` and of all its parents. Inside a container the path
// may not exist; its mount point then stands for the container's own group.
int LimitOfPath(const std::string& mount, std::string path) {
  int limit = LimitOfDirectory(mount);
  for (; path.size() > 1; path.resize(path.rfind('/'))) {
    limit = Tighter(limit, LimitOfDirectory(absl::StrCat(mount, path)));
    if (path.rfind('/') == std::string::npos) break;
  }
  return limit;
}

}  // namespace

int CgroupCpuLimit(const std::string& proc_cgroup, const std::string& root) {
  int limit = 0;
  std::ifstream file(proc_cgroup);
  // "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1.
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      limit = Tighter(limit, LimitOfPath(root, parts[2]));
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), "cpu") == controllers.end()) continue;
    limit = Tighter(limit, LimitOfPath(absl::StrCat(root, "/cpu"), parts[2]));
    if (parts[1] != "cpu") {
      limit = Tighter(limit, LimitOfPath(absl::StrCat(root, "/", parts[1]), parts[2]));
    }
  }
  return limit;
}

std::vector<int> AllowedCpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  std::vector<int> cpus;
  // Fails on machines with more processors than a cpu_set_t holds.
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) cpus.push_back(cpu);
  }
  return cpus;
}

void RunOnCpu(int cpu) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  sched_setaffinity(0, sizeof(mask), &mask);
}

int UsableCpus() {
  const std::vector<int> cpus = AllowedCpus();
  const int allowed = cpus.empty() ? static_cast<int>(std::thread::hardware_concurrency())
                                   : static_cast<int>(cpus.size());
  return std::max(1, Tighter(allowed, CgroupCpuLimit("/proc/self/cgroup", "/sys/fs/cgroup")));
}

}  // namespace strata::kernels
