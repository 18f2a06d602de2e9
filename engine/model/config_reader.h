#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/errors.h"
#include "nlohmann/json.hpp"

namespace strata::engine {

// Both ends belong to the range.
struct IntRange {
  int64_t min = 0;
  int64_t max = 0;
};

// Typed reads of a JSON object's keys. A key that is missing or null takes its default. status()
// keeps the first error, one line naming file, key, value and limit. Every read after an error
// gives a default, so that a caller reads all it needs and checks once.
class ConfigReader {
 public:
  // `object` is an object and outlives the reader; `name` stands for it in errors.
  ConfigReader(std::string name, const nlohmann::json& object)
      : name_(std::move(name)), object_(object) {}

  // Null if the key is missing or null.
  const nlohmann::json* Get(std::string_view key) const;
  bool Has(std::string_view key) const { return Get(key) != nullptr; }
  bool IsNull(std::string_view key) const;  // written, and null

  // A whole number in JSON's notation (2048.0 and 2e3 are not).
  int64_t RequiredInt(std::string_view key, IntRange range);
  int64_t Int(std::string_view key, int64_t default_value, IntRange range);
  // Finite, above 0 and at most `max`.
  double RequiredPositive(std::string_view key, double max);
  double Positive(std::string_view key, double default_value, double max);
  // From `min` to `max`; nullopt if missing.
  std::optional<float> OptionalFloat(std::string_view key, float min, float max);
  bool Bool(std::string_view key, bool default_value);
  // "" if missing.
  std::string String(std::string_view key);
  // A number or a list of numbers; empty if missing.
  std::vector<int64_t> IntList(std::string_view key, IntRange range);

  // Fails if one of `others` is present. They are names of `key` in other configs; with `key`
  // missing here a default would be used instead.
  void RefuseOtherNames(std::string_view key, std::initializer_list<std::string_view> others);

  template <typename... Parts>
  void Refuse(const Parts&... parts) {
    Fail(InvalidArgument(name_, ": ", parts...));
  }
  template <typename... Parts>
  void NotBuilt(const Parts&... parts) {
    Fail(Unimplemented(name_, ": ", parts...));
  }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  const std::string& name() const { return name_; }
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

 private:
  bool Missing(std::string_view key);
  int64_t CheckedInt(std::string_view key, const nlohmann::json& value, IntRange range);
  double CheckedPositive(std::string_view key, const nlohmann::json& value, double max);

  std::string name_;
  const nlohmann::json& object_;
  absl::Status status_;
};

}  // namespace strata::engine
