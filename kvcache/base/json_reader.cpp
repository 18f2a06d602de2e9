#include "kvcache/base/json_reader.h"

#include <algorithm>
#include <cmath>

#include "kvcache/base/error_details.h"

namespace strata {
namespace {

using nlohmann::json;

constexpr size_t kMaxDescription = 80;

// Null if the value has no such field.
const json& FieldOf(const json& value, std::string_view name) {
  static const json null;
  if (!value.is_object()) return null;
  const auto field = value.find(name);
  return field == value.end() ? null : *field;
}

// A field's name for a message. The name is the client's own bytes, so one line of a readable
// length.
std::string DescribeName(std::string_view name) {
  const bool plain =
      !name.empty() && name.size() <= kMaxDescription &&
      std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f && c != ':'; });
  return plain ? std::string(name) : DescribeJson(name);
}

// Whether a list or an object is short enough to be read in a message.
bool IsShort(const json& value) {
  constexpr size_t kMaxElements = 8;
  return value.size() <= kMaxElements &&
         std::all_of(value.begin(), value.end(), [](const json& element) {
           const auto* text = element.get_ptr<const std::string*>();
           return text == nullptr ? element.is_primitive() : text->size() < kMaxDescription;
         });
}

}  // namespace

JsonReader::JsonReader(const json& value, std::string document, absl::Status* status)
    : JsonReader(&value, std::move(document), "", status) {
  if (!value.is_object()) FailExpected("", "an object");
}

JsonReader JsonReader::At(const json& value, std::string path, absl::Status* status) {
  return JsonReader(&value, "", std::move(path), status);
}

std::string JsonReader::PathOf(std::string_view name) const {
  if (name.empty()) return path_;
  return path_.empty() ? DescribeName(name) : Concat(path_, ".", DescribeName(name));
}

bool JsonReader::IsWritten(std::string_view name) const {
  return value_->is_object() && value_->contains(name);
}

const json& JsonReader::Value(std::string_view name) const {
  return name.empty() ? *value_ : FieldOf(*value_, name);
}

std::string JsonReader::String(std::string_view name) {
  const auto* text = Value(name).get_ptr<const std::string*>();
  if (text != nullptr) return *text;
  FailExpected(name, "a string");
  return {};
}

std::string JsonReader::String(std::string_view name, std::string_view fallback) {
  return Has(name) ? String(name) : std::string(fallback);
}

std::optional<bool> JsonReader::OptionalBool(std::string_view name) {
  if (!Has(name)) return std::nullopt;
  const auto* truth = Value(name).get_ptr<const bool*>();
  if (truth != nullptr) return *truth;
  FailExpected(name, "true or false");
  return std::nullopt;
}

bool JsonReader::Bool(std::string_view name, bool fallback) {
  return OptionalBool(name).value_or(fallback);
}

int64_t JsonReader::Integer(std::string_view name, int64_t min, int64_t max,
                            std::string_view what) {
  const std::optional<int64_t> number = WholeNumber(Value(name));
  if (number && *number >= min && *number <= max) return *number;
  if (min > max) {
    FailExpected(name, what, ", of which there is none");
  } else {
    FailExpected(name, what, " from ", min, " to ", max);
  }
  return min;
}

std::optional<int64_t> JsonReader::OptionalInteger(std::string_view name, int64_t min,
                                                   int64_t max) {
  if (!Has(name)) return std::nullopt;
  return Integer(name, min, max);
}

double JsonReader::Positive(std::string_view name, double max) {
  const json& value = Value(name);
  if (value.is_number()) {
    const auto number = value.get<double>();
    // A value that rounds to 0 as a float is refused. All comparisons are false for NaN.
    if (number <= max && static_cast<float>(number) > 0) return number;
  }
  FailExpected(name, "a number above 0, at most ", max);
  return max;
}

double JsonReader::Positive(std::string_view name, double max, double fallback) {
  return Has(name) ? Positive(name, max) : fallback;
}

float JsonReader::Float(std::string_view name, float min, float max) {
  const json& value = Value(name);
  if (value.is_number()) {
    const auto number = value.get<double>();
    if (number >= min && number <= max) return static_cast<float>(number);
  }
  FailExpected(name, "a number from ", min, " to ", max);
  return min;
}

std::optional<float> JsonReader::OptionalFloat(std::string_view name) {
  if (!Has(name)) return std::nullopt;
  if (Value(name).is_number()) return Value(name).get<float>();
  FailExpected(name, "a number");
  return std::nullopt;
}

std::optional<float> JsonReader::OptionalFloat(std::string_view name, float min, float max) {
  if (!Has(name)) return std::nullopt;
  return Float(name, min, max);
}

JsonReader JsonReader::Member(std::string_view name) const {
  return JsonReader(&FieldOf(*value_, name), document_, PathOf(name), status_);
}

JsonReader JsonReader::Object(std::string_view name) {
  JsonReader member = Member(name);
  if (!member.value_->is_object()) member.FailExpected("", "an object");
  return member;
}

std::vector<JsonReader> JsonReader::Elements(std::string_view name, std::string_view what) {
  const json& value = Value(name);
  std::vector<JsonReader> readers;
  if (!value.is_array()) {
    FailExpected(name, what);
    return readers;
  }
  readers.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    readers.push_back(JsonReader(&value[i], document_, Concat(PathOf(name), "[", i, "]"), status_));
  }
  return readers;
}

std::vector<JsonReader> JsonReader::Objects(std::string_view name) {
  if (!Has(name)) return {};
  std::vector<JsonReader> readers = Elements(name);
  for (JsonReader& reader : readers) {
    if (!reader.value_->is_object()) reader.FailExpected("", "an object");
  }
  return readers;
}

void JsonReader::FailUnknown(const std::string& name) { Fail(name, "not recognised"); }

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

std::string JsonReader::Found(std::string_view name) const {
  return name.empty() || IsWritten(name) ? DescribeJson(Value(name)) : "nothing";
}

const absl::Status& JsonReader::Keep(absl::StatusCode code, std::string_view name,
                                     std::string message) {
  if (!status_->ok()) return *status_;
  const std::string path = PathOf(name);
  if (document_.empty()) {
    *status_ = InField(path.empty() ? "document" : path, absl::Status(code, message));
  } else {
    *status_ = absl::Status(code, Concat(document_, path.empty() ? "" : ": ", path, ": ", message));
  }
  return *status_;
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
  if (value.is_structured() && !IsShort(value)) {
    return value.is_array() ? Concat("an array of ", value.size()) : KindOfJson(value);
  }
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  if (text.size() > kMaxDescription) {
    size_t end = kMaxDescription;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text.resize(end);
    text += "...";
  }
  return text;
}

}  // namespace strata
