#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

// Checked reads of JSON from outside: nothing here throws, and every refusal is INVALID_ARGUMENT in
// one line, "path: value found, value wanted".

namespace strata::kvcache {

template <typename... Parts>
absl::Status RefuseAt(absl::string_view path, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", parts...));
}

// A value for an error message: short, and without control characters.
std::string Shown(const nlohmann::json& value);
// The same for a name.
std::string Quoted(absl::string_view name);

// "path.name"
std::string Member(absl::string_view path, absl::string_view name);
// "path[index]"
std::string Element(absl::string_view path, size_t index);

// Refuses the first member that is not among `known`. REQUIRES: `object` is one.
absl::Status CheckMembers(const nlohmann::json& object, absl::string_view path,
                          std::initializer_list<absl::string_view> known);
// Null when absent. REQUIRES: `object` is one.
const nlohmann::json* FindMember(const nlohmann::json& object, absl::string_view name);

// An integer in [low, high]; "9 is not <what> (0..7)" else. Neither 1.0 nor true is one.
absl::StatusOr<int32_t> ReadInt(const nlohmann::json& value, absl::string_view path,
                                absl::string_view what, int32_t low, int32_t high);
// The same for a member that must be there.
absl::StatusOr<int32_t> ReadIntMember(const nlohmann::json& object, absl::string_view path,
                                      absl::string_view name, absl::string_view what, int32_t low,
                                      int32_t high);
// A number that is finite as a float.
absl::StatusOr<float> ReadFloat(const nlohmann::json& value, absl::string_view path);
// Layers in [low, num_layers), strictly ascending.
absl::StatusOr<std::vector<int32_t>> ReadLayers(const nlohmann::json& value, absl::string_view path,
                                                int32_t low, int32_t num_layers);

}  // namespace strata::kvcache
