#pragma once

#include <string>
#include <vector>

namespace strata::kernels {

// The threads worth starting: the cores of this process's affinity mask, or fewer where a cgroup
// (v1 or v2, itself or any parent) grants less processor time. At least 1.
int UsableCpus();

// The cores of this process's affinity mask, ascending; empty where the system does not say.
std::vector<int> AllowedCpus();

// From now on the calling thread runs on `cpu` alone. Advice: where the system refuses, it stays.
void RunOnCpu(int cpu);

// The cgroup's part of UsableCpus(): the processor-time quota in cores, rounded up; 0 where there
// is none. `proc_cgroup` is a file like /proc/self/cgroup, `root` where the cgroup file systems
// stand.
int CgroupCpuLimit(const std::string& proc_cgroup, const std::string& root);

}  // namespace strata::kernels
