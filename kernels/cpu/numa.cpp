#include "kernels/cpu/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace strata::kernels {
namespace {

constexpr int kMaxNodes = 1024;  // of the kernel

std::vector<int> OnlineNodes() {
  std::ifstream file("/sys/devices/system/node/has_memory");
  std::string text;
  std::getline(file, text);
  return ParseNodeList(text);
}

}  // namespace

std::vector<int> ParseNodeList(const std::string& text) {
  std::vector<int> nodes;
  const std::vector<std::string> ranges = absl::StrSplit(text, ',');
  for (const std::string& range : ranges) {
    const std::vector<std::string> ends = absl::StrSplit(range, '-');
    int first = 0;
    int last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
        !absl::SimpleAtoi(ends.back(), &last) || first < 0 || last >= kMaxNodes) {
      return {};
    }
    for (int node = first; node <= last; ++node) nodes.push_back(node);
  }
  return nodes;
}

void InterleaveOverNodes(void* data, size_t bytes) {
  static const std::vector<int> nodes = OnlineNodes();
  if (nodes.size() < 2) return;
  constexpr size_t kBits = sizeof(unsigned long) * CHAR_BIT;  // NOLINT: the system call's type
  std::array<unsigned long, kMaxNodes / kBits> mask = {};     // NOLINT
  for (const int node : nodes) {
    mask[static_cast<size_t>(node) / kBits] |= 1UL << static_cast<size_t>(node) % kBits;
  }
  syscall(SYS_mbind, data, bytes, MPOL_INTERLEAVE, mask.data(), kMaxNodes + 1, 0);
}

}  // namespace strata::kernels
