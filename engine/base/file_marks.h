#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace strata::engine {

// First bytes that show that a file is the wrong one. `name` stands for the file in errors, which
// are INVALID_ARGUMENT in one line.

// OK unless the content is a Git LFS pointer: the few lines that Git keeps in place of a large
// file.
absl::Status RefuseLfsPointer(std::string_view name, std::string_view content);

// OK unless the text begins with a byte-order mark of UTF-8 or UTF-16. The mark is invisible in an
// editor and would become a part of the first word.
absl::Status RefuseByteOrderMark(std::string_view name, std::string_view text);

}  // namespace strata::engine
