#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace strata::engine {

// One tensor in the header of a safetensors file.
struct HeaderEntry {
  std::string name;
  std::string_view dtype;  // "F32"; static storage
  std::vector<int64_t> shape;
  size_t begin = 0;  // bytes [begin, end) of the data
  size_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  // in data order
  size_t data_start = 0;             // bytes from the start of the file
};

// Longest header we read, as in the reference implementation.
inline constexpr size_t kMaxHeaderBytes = 100'000'000;

// Reads and checks the header of `file`; `name` stands for the file in errors. Afterwards every
// entry has a known dtype, a shape whose bytes are exactly end - begin, and the entries lie end to
// end from 0 to the end of the file. INVALID_ARGUMENT, one line.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view name,
                                                         std::string_view file);

}  // namespace strata::engine
