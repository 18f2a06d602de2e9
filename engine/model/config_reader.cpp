#include "engine/model/config_reader.h"

#include <cmath>

#include "engine/base/json_file.h"

namespace strata::engine {

using Json = nlohmann::json;

const Json* ConfigReader::Get(std::string_view key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::IsNull(std::string_view key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

bool ConfigReader::Missing(std::string_view key) {
  if (Has(key)) return false;
  Refuse(key, " is missing");
  return true;
}

int64_t ConfigReader::RequiredInt(std::string_view key, IntRange range) {
  return Missing(key) ? range.min : CheckedInt(key, *Get(key), range);
}

int64_t ConfigReader::Int(std::string_view key, int64_t default_value, IntRange range) {
  const Json* value = Get(key);
  return value == nullptr ? default_value : CheckedInt(key, *value, range);
}

int64_t ConfigReader::CheckedInt(std::string_view key, const Json& value, IntRange range) {
  // An unsigned number above INT64_MAX would read as negative, so it is checked first.
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  if (fits) {
    const auto number = value.get<int64_t>();
    if (number >= range.min && number <= range.max) return number;
  }
  Refuse(key, " = ", PrintableJson(value), ", want a whole number from ", range.min, " to ",
         range.max);
  return range.min;
}

double ConfigReader::RequiredPositive(std::string_view key, double max) {
  return Missing(key) ? max : CheckedPositive(key, *Get(key), max);
}

double ConfigReader::Positive(std::string_view key, double default_value, double max) {
  const Json* value = Get(key);
  return value == nullptr ? default_value : CheckedPositive(key, *value, max);
}

double ConfigReader::CheckedPositive(std::string_view key, const Json& value, double max) {
  if (value.is_number()) {
    const auto number = value.get<double>();
    // A value that rounds to 0 as a float is rejected.
    if (std::isfinite(number) && static_cast<float>(number) > 0 && number <= max) return number;
  }
  Refuse(key, " = ", PrintableJson(value), ", want a number above 0, at most ", max);
  return max;
}

std::optional<float> ConfigReader::OptionalFloat(std::string_view key, float min, float max) {
  const Json* value = Get(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const auto number = value->get<float>();
    if (number >= min && number <= max) return number;  // false for NaN
  }
  Refuse(key, " = ", PrintableJson(*value), ", want a number from ", min, " to ", max);
  return std::nullopt;
}

bool ConfigReader::Bool(std::string_view key, bool default_value) {
  const Json* value = Get(key);
  if (value == nullptr) return default_value;
  if (!value->is_boolean()) {
    Refuse(key, " = ", PrintableJson(*value), ", want true or false");
    return default_value;
  }
  return value->get<bool>();
}

std::string ConfigReader::String(std::string_view key) {
  const Json* value = Get(key);
  if (value == nullptr) return "";
  if (!value->is_string()) {
    Refuse(key, " = ", PrintableJson(*value), ", want a string");
    return "";
  }
  return value->get<std::string>();
}

std::vector<int64_t> ConfigReader::IntList(std::string_view key, IntRange range) {
  const Json* value = Get(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {CheckedInt(key, *value, range)};
  std::vector<int64_t> list;
  for (const Json& item : *value) list.push_back(CheckedInt(key, item, range));
  return list;
}

void ConfigReader::RefuseOtherNames(std::string_view key,
                                    std::initializer_list<std::string_view> others) {
  for (const std::string_view other : others) {
    if (Has(other)) Refuse(other, " = ", PrintableJson(*Get(other)), " but ", key, " is missing");
  }
}

}  // namespace strata::engine
