#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace strata::kernels {

// The words of a small file; none if it cannot be read.
std::vector<std::string> CgroupWords(const std::string& path);

// The lowest limit that `limit_of` reads in the directories of this process's cgroup (v1 or v2) and
// all its parents. 0 stands for no limit, in `limit_of` and here. `controller` is "cpu" or
// "memory", `proc_cgroup` a file like /proc/self/cgroup, `root` the directory of the cgroup file
// systems.
int64_t TightestCgroupLimit(const std::string& proc_cgroup, const std::string& root,
                            const std::string& controller,
                            const std::function<int64_t(const std::string& directory)>& limit_of);

// Bytes of memory that the cgroup may hold; 0 if there is no limit.
int64_t CgroupMemoryLimit(const std::string& proc_cgroup, const std::string& root);

}  // namespace strata::kernels
