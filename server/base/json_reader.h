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
// status, which keeps the first error, "path: expected a string, got 3"; later reads give defaults.
// So a parser reads the fields it needs and checks the status before it uses them.
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

  // A required field; with a default, a field that may be absent or null.
  std::string String(std::string_view name);
  std::string String(std::string_view name, std::string_view fallback);
  bool Bool(std::string_view name, bool fallback);
  std::optional<bool> OptionalBool(std::string_view name);
  int64_t Integer(std::string_view name, int64_t min, int64_t max);  // also written as 16.0
  std::optional<int64_t> OptionalInteger(std::string_view name, int64_t min, int64_t max);
  std::optional<float> OptionalFloat(std::string_view name);

  JsonReader Object(std::string_view name);
  // The elements of an array of objects; none if the field is absent or null.
  std::vector<JsonReader> Objects(std::string_view name);
  // The value itself, null if the field is absent.
  const nlohmann::json& Value(std::string_view name) const;

  // Fails because no field of this name is read.
  void FailUnknown(const std::string& name);
  // Fails at the first field, in alphabetical order, that is not among `known` and asks for
  // something.
  void RefuseOthers(std::span<const std::string_view> known);

  // Keeps INVALID_ARGUMENT "path.name: message" unless there was an error before; `name` may be
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

// The JSON object that a client sent. INVALID_ARGUMENT as engine::ParseJson, or if it is no object.
// Errors repeat nothing of the body but a key that is there twice.
absl::StatusOr<nlohmann::json> ParseBody(std::string_view body);

// Whether a field's value is null, [] or {}: such a field asks for nothing.
bool AsksForNothing(const nlohmann::json& value);
// A whole number, also written as 16.0; nullopt for any other value.
std::optional<int64_t> WholeNumber(const nlohmann::json& value);

// A value for a message: one line, cut to a readable length, never recursive.
std::string DescribeJson(const nlohmann::json& value);
// The kind of a value that must not be repeated: "a string", "an object", "null" and so on.
const char* KindOfJson(const nlohmann::json& value);

}  // namespace strata::server
