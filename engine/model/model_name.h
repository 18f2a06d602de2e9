#pragma once

#include <filesystem>
#include <string>

namespace strata::engine {

// Default name of the model in this folder: the folder's own name. A snapshot in the cache of
// Hugging Face's libraries, models--ORG--NAME/snapshots/HASH, gets its repository's name, ORG/NAME.
// Links are not followed: a link's own name counts.
std::string ModelNameOf(const std::filesystem::path& dir);

}  // namespace strata::engine
