#include "kvcache/plan/plan_json.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/escaping.h"
#include "kernels/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache {
namespace {

using nlohmann::json;

constexpr size_t kMaxShownChars = 40;

}  // namespace

std::string Quoted(absl::string_view name) {
  const bool cut = name.size() > kMaxShownChars;
  return absl::StrCat("\"", absl::CHexEscape(name.substr(0, kMaxShownChars)), cut ? "..." : "",
                      "\"");
}

// Not json::dump(), which throws on a string that is not UTF-8 and prints lists in full.
std::string Shown(const json& value) {
  if (const auto* text = value.get_ptr<const json::string_t*>()) return Quoted(*text);
  if (const auto* natural = value.get_ptr<const json::number_unsigned_t*>()) {
    return absl::StrCat(*natural);
  }
  if (const auto* integer = value.get_ptr<const json::number_integer_t*>()) {
    return absl::StrCat(*integer);
  }
  if (const auto* real = value.get_ptr<const json::number_float_t*>()) return absl::StrCat(*real);
  if (const auto* truth = value.get_ptr<const json::boolean_t*>()) return *truth ? "true" : "false";
  if (value.is_array()) return "a list";
  return value.is_object() ? "an object" : value.type_name();
}

std::string Member(absl::string_view path, absl::string_view name) {
  return absl::StrCat(path, ".", name);
}

std::string Element(absl::string_view path, size_t index) {
  return absl::StrCat(path, "[", index, "]");
}

absl::Status CheckMembers(const json& object, absl::string_view path,
                          std::initializer_list<absl::string_view> known) {
  for (auto member = object.begin(); member != object.end(); ++member) {
    if (std::find(known.begin(), known.end(), member.key()) == known.end()) {
      return RefuseAt(path, "unknown key ", Quoted(member.key()));
    }
  }
  return absl::OkStatus();
}

const json* FindMember(const json& object, absl::string_view name) {
  const auto found = object.find(std::string(name));
  return found == object.end() ? nullptr : &*found;
}

absl::StatusOr<int32_t> ReadInt(const json& value, absl::string_view path, absl::string_view what,
                                int32_t low, int32_t high) {
  // A natural number beyond int64 would turn negative below; it is out of every range anyway.
  const auto* natural = value.get_ptr<const json::number_unsigned_t*>();
  const bool huge = natural != nullptr && *natural > uint64_t{std::numeric_limits<int32_t>::max()};
  if (value.is_number_integer() && !huge) {
    const auto integer = value.get<int64_t>();
    if (integer >= low && integer <= high) return static_cast<int32_t>(integer);
  }
  if (low > high) return RefuseAt(path, Shown(value), " is not ", what, " (there is none)");
  return RefuseAt(path, Shown(value), " is not ", what, " (", low, "..", high, ")");
}

absl::StatusOr<int32_t> ReadIntMember(const json& object, absl::string_view path,
                                      absl::string_view name, absl::string_view what, int32_t low,
                                      int32_t high) {
  const json* value = FindMember(object, name);
  if (value == nullptr) return RefuseAt(Member(path, name), "missing");
  return ReadInt(*value, Member(path, name), what, low, high);
}

absl::StatusOr<float> ReadFloat(const json& value, absl::string_view path) {
  if (value.is_number()) {
    const auto number = value.get<double>();
    // False for NaN too.
    if (std::abs(number) <= double{std::numeric_limits<float>::max()}) {
      return static_cast<float>(number);
    }
  }
  return RefuseAt(path, Shown(value), " is not a finite number");
}

absl::StatusOr<std::vector<int32_t>> ReadLayers(const json& value, absl::string_view path,
                                                int32_t low, int32_t num_layers) {
  if (!value.is_array()) return RefuseAt(path, Shown(value), " is not a list of layers");
  std::vector<int32_t> layers;
  for (const json& element : value) {
    ASSIGN_OR_RETURN(int32_t layer, ReadInt(element, path, "a layer", low, num_layers - 1));
    if (!layers.empty() && layer <= layers.back()) {
      return RefuseAt(path, layer, " after ", layers.back(), ", layers must ascend");
    }
    layers.push_back(layer);
  }
  return layers;
}

}  // namespace strata::kvcache
