#include "server/base/json_reader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/error_details.h"
#include "engine/base/json_file.h"
#include "server/base/string_util.h"

namespace strata::server {
namespace {

using nlohmann::json;

constexpr size_t kMaxDescription = 80;

const json& NullJson() {
  static const json null;
  return null;
}

// A field's name for a message. The name is the client's own bytes, so one line of a readable
// length.
std::string DescribeName(const std::string& name) {
  const bool plain =
      !name.empty() && name.size() <= kMaxDescription &&
      std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f && c != ':'; });
  return plain ? name : DescribeJson(name);
}

}  // namespace

JsonReader::JsonReader(const json& value, std::string path, absl::Status* status)
    : value_(&value), path_(std::move(path)), status_(status) {
  if (!value.is_object()) FailExpected("", "an object");
}

std::string JsonReader::PathOf(std::string_view name) const {
  if (name.empty()) return path_.empty() ? "document" : path_;
  return path_.empty() ? std::string(name) : Concat(path_, ".", name);
}

const json& JsonReader::Value(std::string_view name) const {
  if (!value_->is_object()) return NullJson();
  const auto it = value_->find(name);
  return it == value_->end() ? NullJson() : *it;
}

bool JsonReader::Has(std::string_view name) const { return !Value(name).is_null(); }

std::string JsonReader::String(std::string_view name) {
  const json& value = Value(name);
  if (!value.is_string()) {
    FailExpected(name, "a string");
    return {};
  }
  return *value.get_ptr<const std::string*>();
}

std::string JsonReader::String(std::string_view name, std::string_view fallback) {
  return Has(name) ? String(name) : std::string(fallback);
}

std::optional<bool> JsonReader::OptionalBool(std::string_view name) {
  const json& value = Value(name);
  if (value.is_null()) return std::nullopt;
  if (!value.is_boolean()) {
    FailExpected(name, "true or false");
    return std::nullopt;
  }
  return *value.get_ptr<const bool*>();
}

bool JsonReader::Bool(std::string_view name, bool fallback) {
  return OptionalBool(name).value_or(fallback);
}

int64_t JsonReader::Integer(std::string_view name, int64_t min, int64_t max) {
  const std::optional<int64_t> number = WholeNumber(Value(name));
  if (number && *number >= min && *number <= max) return *number;
  FailExpected(name, Concat("a whole number from ", min, " to ", max));
  return min;
}

std::optional<int64_t> JsonReader::OptionalInteger(std::string_view name, int64_t min,
                                                   int64_t max) {
  if (!Has(name)) return std::nullopt;
  return Integer(name, min, max);
}

std::optional<float> JsonReader::OptionalFloat(std::string_view name) {
  if (!Has(name)) return std::nullopt;
  const json& value = Value(name);
  if (!value.is_number()) {
    FailExpected(name, "a number");
    return std::nullopt;
  }
  return value.get<float>();
}

JsonReader JsonReader::Object(std::string_view name) {
  return JsonReader(Value(name), PathOf(name), status_);
}

std::vector<JsonReader> JsonReader::Objects(std::string_view name) {
  const json& value = Value(name);
  std::vector<JsonReader> readers;
  if (value.is_null()) return readers;
  if (!value.is_array()) {
    FailExpected(name, "an array");
    return readers;
  }
  for (size_t i = 0; i < value.size() && ok(); ++i) {
    readers.emplace_back(value[i], Concat(PathOf(name), "[", i, "]"), status_);
  }
  return readers;
}

void JsonReader::FailUnknown(const std::string& name) {
  Fail(DescribeName(name), "not recognised");
}

void JsonReader::RefuseOthers(std::span<const std::string_view> known) {
  if (!value_->is_object()) return;
  for (const auto& [name, value] : value_->items()) {
    if (AsksForNothing(value) || std::ranges::find(known, std::string_view(name)) != known.end()) {
      continue;
    }
    FailUnknown(name);
    return;
  }
}

const absl::Status& JsonReader::Fail(std::string_view name, std::string_view message) {
  if (status_->ok()) {
    *status_ = engine::InvalidField(PathOf(name), message);
  }
  return *status_;
}

const absl::Status& JsonReader::FailExpected(std::string_view name, std::string_view expected) {
  const json& value = name.empty() ? *value_ : Value(name);
  return Fail(name, Concat("expected ", expected, ", got ", DescribeJson(value)));
}

absl::StatusOr<json> ParseBody(std::string_view body) {
  absl::StatusOr<json> document = engine::ParseJson("the body", body);
  if (!document.ok() || document->is_object()) return document;
  // The value may be the prompt itself.
  return engine::InvalidField("document", "expected an object, got ", KindOfJson(*document));
}

bool AsksForNothing(const json& value) {
  return value.is_null() || (value.is_structured() && value.empty());
}

std::optional<int64_t> WholeNumber(const json& value) {
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (!(std::abs(number) < 0x1p63) || number != std::trunc(number)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  // The parser keeps every number that is not negative as unsigned.
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value.is_number_integer() || too_large) return std::nullopt;
  return value.get<int64_t>();
}

const char* KindOfJson(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a string";
  if (value.is_number()) return "a number";
  return value.is_boolean() ? "true or false" : "null";
}

std::string DescribeJson(const json& value) {
  if (value.is_structured()) return KindOfJson(value);
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  if (text.size() > kMaxDescription) {
    size_t end = kMaxDescription;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text.resize(end);
    text += "...";
  }
  return text;
}

}  // namespace strata::server
