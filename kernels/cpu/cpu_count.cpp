#include "kernels/cpu/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/cgroup.h"

namespace strata::kernels {
namespace {

// Cores from "quota period", both in microseconds; 0 for "max", -1 or anything else.
int Cores(const std::string& quota_text, const std::string& period_text) {
  int64_t quota = 0;
  int64_t period = 0;
  if (!absl::SimpleAtoi(quota_text, &quota) || !absl::SimpleAtoi(period_text, &period)) return 0;
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::clamp<int64_t>((quota + period - 1) / period, 1, 1 << 20));
}

int64_t LimitOfDirectory(const std::string& directory) {
  const std::vector<std::string> v2 = CgroupWords(absl::StrCat(directory, "/cpu.max"));
  if (v2.size() == 2) return Cores(v2[0], v2[1]);
  const std::vector<std::string> quota = CgroupWords(absl::StrCat(directory, "/cpu.cfs_quota_us"));
  const std::vector<std::string> period =
      CgroupWords(absl::StrCat(directory, "/cpu.cfs_period_us"));
  return quota.size() == 1 && period.size() == 1 ? Cores(quota[0], period[0]) : 0;
}

}  // namespace

int CgroupCpuLimit(const std::string& proc_cgroup, const std::string& root) {
  return static_cast<int>(TightestCgroupLimit(proc_cgroup, root, "cpu", LimitOfDirectory));
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
  const int granted = CgroupCpuLimit("/proc/self/cgroup", "/sys/fs/cgroup");
  return std::max(1, granted == 0 ? allowed : std::min(allowed, granted));
}

}  // namespace strata::kernels
