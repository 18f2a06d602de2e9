#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::server {

// Reads the fields of one JSON object without exceptions. All readers of a document share one
// status, which keeps the first thing that is wrong, "path: expected a string, got 3"; after that
// reads give defaults. So a parser reads what it needs and looks at the status before it relies on
// what it read.
//
//   absl::Status status;
//   JsonReader root(document, "", &status);
//   JsonReader model = root.Object("model");
//   std::string type = model.String("type");
//   if (!status.ok()) return status;  // "model.type: expected a string, got null"
//
// The document and the status must outlive the reader. One thread. A document of engine::ParseJson
// nests at most kMaxJsonDepth deep, so that walking it by recursion ends soon.
class JsonReader {
 public:
  // `path` names the object in messages, "" the whole document.
  JsonReader(const nlohmann::json& value, std::string path, absl::Status* status);

  const std::string& path() const { return path_; }
  bool ok() const { return status_->ok(); }
  const absl::Status& status() const { return *status_; }

  // Whether the field is there and not null.
  bool Has(std::string_view name) const;

  // A field that must be there, unless a default is given for when it is absent or null.
  std::string String(std::string_view name);
  std::string String(std::string_view name, std::string_view fallback);
  bool Bool(std::string_view name, bool fallback);
  std::optional<bool> OptionalBool(std::string_view name);
  int64_t Integer(std::string_view name, int64_t min, int64_t max);  // also written as 16.0
  std::optional<int64_t> OptionalInteger(std::string_view name, int64_t min, int64_t max);
  std::optional<float> OptionalFloat(std::string_view name);

  JsonReader Object(std::string_view name);
  // The elements of an array of objects; none where the field is absent or null.
  std::vector<JsonReader> Objects(std::string_view name);
  // The value itself, null where the field is absent.
  const nlohmann::json& Value(std::string_view name) const;

  // Fails: nobody reads a field of this name.
  void FailUnknown(const std::string& name);
  // Fails at the first field, in alphabetical order, that asks for something and is not among
  // `known`.
  void RefuseOthers(std::span<const std::string_view> known);

  // Keeps INVALID_ARGUMENT "path.name: message", unless something was wrong before; `name` may be
  // empty for the object itself. Returns the status kept.
  const absl::Status& Fail(std::string_view name, std::string_view message);
  // As Fail, for a field whose value is of the wrong kind or out of range.
  const absl::Status& FailExpected(std::string_view name, std::string_view expected);

 private:
  std::string PathOf(std::string_view name) const;

  const nlohmann::json* value_;
  std::string path_;
  absl::Status* status_;
};

// The JSON object that a client sent: INVALID_ARGUMENT as engine::ParseJson, and where it is no
// object; nothing of what it holds is repeated but a key that stands there twice.
absl::StatusOr<nlohmann::json> ParseBody(std::string_view body);

// A field that holds null, [] or {} asks for nothing, whatever its name.
bool AsksForNothing(const nlohmann::json& value);
// A whole number, also written as 16.0; absent for any other value.
std::optional<int64_t> WholeNumber(const nlohmann::json& value);

// A value for a message: one line, cut to a readable length, never recursive.
std::string DescribeJson(const nlohmann::json& value);
// "a string", "an object", "null" and so on, of a value that is nobody's to read.
const char* KindOfJson(const nlohmann::json& value);

}  // namespace strata::server
