#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace strata::kernels {

// Spreads the pages of [data, data + bytes), not yet touched, over the machine's memory nodes, so
// that threads of every socket read at the rate of all nodes together. Does nothing on a machine of
// one node. Best effort: if the system refuses, a page goes to the node that touches it first.
void InterleaveOverNodes(void* data, size_t bytes);

// "0-2,5" as the system writes lists of nodes: 0, 1, 2, 5. Empty if `text` is none, or names a
// node above 1023.
std::vector<int> ParseNodeList(const std::string& text);

}  // namespace strata::kernels
