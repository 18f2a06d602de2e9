#pragma once

#include <string>

namespace strata::kernels {

// The threads worth starting: the cores of this process's affinity mask, or fewer where a cgroup
// (v1 or v2, itself or any parent) grants less processor time. At least 1.
int UsableCpus();

// The cgroup's part of it: the processor-time quota in cores, rounded up; 0 where there is none.
// `proc_cgroup` is a file like /proc/self/cgroup, `root` where the cgroup file systems stand.
int CgroupCpuLimit(const std::string& proc_cgroup, const std::string& root);

}  // namespace strata::kernels
