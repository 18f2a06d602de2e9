#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kvcache/base/errors.h"
#include "nlohmann/json.hpp"

namespace strata {

// Reads a JSON value from outside without exceptions: a checkpoint's config, a sharing plan, a
// tokenizer, a client's request. All readers of a document share one status, which keeps the first
// error, "path: expected a string, got 3"; later reads give defaults. So a parser reads the fields
// it needs and checks the status before it uses them.
//
//   absl::Status status;
//   JsonReader root(document, "config.json", &status);
//   JsonReader rope = root.Object("rope_scaling");
//   double factor = rope.Positive("factor", 1e6);
//   if (!status.ok()) return status;  // "config.json: rope_scaling.factor: expected a number above
//                                     //  0, at most 1e+06, got \"two\""
//
// A reader is a place in the document. Where a function takes the name of a field, "" is the value
// itself, but for Member and Object, whose names may come from the document. A field that is null
// counts as absent wherever it may be absent.
//
// The document and the status must outlive the reader. One thread. A document of ParseJson nests at
// most kMaxJsonDepth deep, so that walking it by recursion ends soon.
class JsonReader {
 public:
  // An object, or the status fails. `document` begins every error; if it is empty, the errors carry
  // the path as their field (error_details.h).
  JsonReader(const nlohmann::json& value, std::string document, absl::Status* status);
  // A value of any kind, at `path`.
  static JsonReader At(const nlohmann::json& value, std::string path, absl::Status* status);

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  bool ok() const { return status_->ok(); }
  const absl::Status& status() const { return *status_; }

  // Whether the field is there and not null; whether it is there.
  bool Has(std::string_view name) const { return !Value(name).is_null(); }
  bool IsWritten(std::string_view name) const;
  // The value itself, null if the field is absent.
  const nlohmann::json& Value(std::string_view name) const;

  // A required field; with a default, a field that may be absent.
  std::string String(std::string_view name);
  std::string String(std::string_view name, std::string_view fallback);
  bool Bool(std::string_view name, bool fallback);
  std::optional<bool> OptionalBool(std::string_view name);
  // A whole number, also written as 16.0; `what` names it in errors. The smallest after an error.
  int64_t Integer(std::string_view name, int64_t min, int64_t max,
                  std::string_view what = "a whole number");
  std::optional<int64_t> OptionalInteger(std::string_view name, int64_t min, int64_t max);
  // Above 0 as a float, and at most `max`.
  double Positive(std::string_view name, double max);
  double Positive(std::string_view name, double max, double fallback);
  float Float(std::string_view name, float min, float max);
  std::optional<float> OptionalFloat(std::string_view name);
  std::optional<float> OptionalFloat(std::string_view name, float min, float max);

  JsonReader Object(std::string_view name);
  // A field of any kind.
  JsonReader Member(std::string_view name) const;
  // The elements of a required array, `what` in errors; none after an error.
  std::vector<JsonReader> Elements(std::string_view name, std::string_view what = "an array");
  // The elements of an array of objects, which may be absent.
  std::vector<JsonReader> Objects(std::string_view name);

  // Fails because no field of this name is read.
  void FailUnknown(const std::string& name);
  // Fails at the first field, in alphabetical order, that is not among `known` and asks for
  // something.
  void RefuseOthers(std::span<const std::string_view> known);

  // Keeps INVALID_ARGUMENT "path.name: message" unless there was an error before. Returns the
  // status kept.
  template <typename... Parts>
  const absl::Status& Fail(std::string_view name, const Parts&... message) {
    return Keep(absl::StatusCode::kInvalidArgument, name, Concat(message...));
  }
  // As Fail, for a field whose value is of the wrong kind or out of range: "expected X, got VALUE".
  template <typename... Parts>
  const absl::Status& FailExpected(std::string_view name, const Parts&... expected) {
    return Fail(name, "expected ", expected..., ", got ", Found(name));
  }
  // As Fail, UNIMPLEMENTED "VALUE is not built" with a reason.
  template <typename... Parts>
  const absl::Status& FailNotBuilt(std::string_view name, const Parts&... reason) {
    return Keep(absl::StatusCode::kUnimplemented, name,
                Concat(Found(name), " is not built", reason...));
  }

 private:
  JsonReader(const nlohmann::json* value, std::string document, std::string path,
             absl::Status* status)
      : value_(value), document_(std::move(document)), path_(std::move(path)), status_(status) {}

  std::string PathOf(std::string_view name) const;
  std::string Found(std::string_view name) const;  // the value for a message
  const absl::Status& Keep(absl::StatusCode code, std::string_view name, std::string message);

  const nlohmann::json* value_;
  std::string document_;
  std::string path_;
  absl::Status* status_;
};

// Whether a field's value is null, [] or {}: such a field asks for nothing.
bool AsksForNothing(const nlohmann::json& value);
// A whole number, also written as 16.0; nullopt for any other value.
std::optional<int64_t> WholeNumber(const nlohmann::json& value);

// A value for a message, in one line of a readable length: strings and numbers in JSON's notation,
// short lists and objects too, longer ones by their kind.
std::string DescribeJson(const nlohmann::json& value);
// The kind of a value that must not be repeated: "a string", "an object", "null" and so on.
const char* KindOfJson(const nlohmann::json& value);

}  // namespace strata
