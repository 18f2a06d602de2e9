#pragma once

#include <string>
#include <vector>

namespace strata::kernels {

// The number of threads worth starting: the cores of this process's affinity mask, or fewer if a
// cgroup (v1 or v2, its own or any parent) grants less processor time. At least 1.
int UsableCpus();

// The cores of this process's affinity mask, ascending; empty if the system does not say.
std::vector<int> AllowedCpus();

// Keeps the calling thread on `cpu` alone from now on. Best effort: no change if the system
// refuses.
void RunOnCpu(int cpu);

// The cgroup's part of UsableCpus(): the processor-time quota in cores, rounded up; 0 if there is
// none. `proc_cgroup` is a file like /proc/self/cgroup, `root` the directory of the cgroup file
// systems.
int CgroupCpuLimit(const std::string& proc_cgroup, const std::string& root);

}  // namespace strata::kernels
