#include "engine/base/json_file.h"

#include <cstdint>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "engine/base/file_marks.h"
#include "kvcache/base/errors.h"
#include "kvcache/base/json_reader.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// Builds a value from the parser's events. Refuses deep nesting and an object with the same key
// twice: JSON allows both, but readers differ in which of two values they take. Parsing ends at a
// refusal.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view name, std::string_view text) : name_(name), text_(text) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(int64_t value) override { return Add(value); }
  bool number_unsigned(uint64_t value) override { return Add(value); }
  bool number_float(double value, const std::string& /*text*/) override { return Add(value); }
  bool string(std::string& value) override { return Add(std::move(value)); }
  bool binary(Json::binary_t& value) override { return Add(std::move(value)); }
  bool start_object(size_t /*size*/) override { return Open(Json::object()); }
  bool start_array(size_t /*size*/) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& key) override;
  bool parse_error(size_t byte, const std::string& token, const Json::exception& error) override;

  absl::StatusOr<Json> Finish() {
    if (!status_.ok()) return status_;
    return std::move(root_);
  }

 private:
  template <typename Value>
  bool Add(Value&& value) {
    Place(Json(std::forward<Value>(value)));
    return true;
  }
  bool Open(Json container) {
    if (open_.size() >= size_t{kMaxJsonDepth}) {
      status_ = InvalidArgument(name_, ": JSON nested deeper than the limit of ", kMaxJsonDepth);
      return false;
    }
    open_.push_back(Place(std::move(container)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }
  // Returns the place of the value. An open container does not move: the container around it takes
  // no other value before it is closed.
  Json* Place(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (!open_.back()->is_array()) return &(*member_ = std::move(value));
    auto& array = open_.back()->get_ref<Json::array_t&>();
    return &array.emplace_back(std::move(value));
  }

  std::string_view name_;
  std::string_view text_;
  Json root_;
  std::vector<Json*> open_;  // the containers around the next value, the outermost first
  Json* member_ = nullptr;   // the next value, if the innermost container is an object
  absl::Status status_;
};

bool Builder::key(std::string& key) {
  auto& object = open_.back()->get_ref<Json::object_t&>();
  const auto [place, added] = object.emplace(std::move(key), nullptr);
  member_ = &place->second;
  if (!added) status_ = InvalidArgument(name_, ": key ", DescribeJson(place->first), " twice");
  return added;
}

// The parser's message ends with the text it read last, which may be a client's prompt, so that
// part is cut. The part before it has the parser's own words, and distinguishes errors of one
// number.
bool Builder::parse_error(size_t byte, const std::string& /*token*/, const Json::exception& error) {
  constexpr int kOutOfRange = 406;
  std::string_view reason = error.what();
  reason = reason.substr(0, reason.find("; last read:"));
  status_ = RefuseLfsPointer(name_, text_);
  if (!status_.ok()) return false;
  if (error.id == kOutOfRange) {
    status_ = InvalidArgument(name_, ": JSON with a number beyond the range of float64");
  } else if (text_.empty()) {
    status_ = InvalidArgument(name_, ": not JSON, it is empty");
  } else if (text_.starts_with("\xFF\xFE") || text_.starts_with("\xFE\xFF")) {
    status_ = RefuseByteOrderMark(name_, text_);
  } else if (reason.find("invalid string: surrogate") != std::string_view::npos) {
    status_ =
        InvalidArgument(name_, ": not JSON, a string has a lone surrogate (one of \\ud800 to ",
                        "\\udfff that is no half of a pair) at byte ", byte, " of ", text_.size());
  } else if (reason.find("ill-formed UTF-8") != std::string_view::npos) {
    status_ = InvalidArgument(name_, ": not JSON, a string is not UTF-8 at byte ", byte, " of ",
                              text_.size());
  } else {
    status_ =
        InvalidArgument(name_, ": not JSON, the error is at byte ", byte, " of ", text_.size());
  }
  return false;
}

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view name, std::string_view text) {
  Builder builder(name, text);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.Finish();
}

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path, size_t limit_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  const std::string name = path.string();
  if (!std::filesystem::exists(status)) {
    return error && error != std::errc::no_such_file_or_directory
               ? InvalidArgument(name, ": ", error.message())
               : NotFound(name, ": no such file");
  }
  if (!std::filesystem::is_regular_file(status)) {
    return InvalidArgument(name, ": not a file");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return InvalidArgument(name, ": cannot be read");
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error || size > limit_bytes) {
    return InvalidArgument(name, ": ", size, " bytes, the limit is ", limit_bytes);
  }
  std::string content(static_cast<size_t>(size), '\0');
  if (!file.read(content.data(), static_cast<std::streamsize>(size))) {
    return InvalidArgument(name, ": cannot be read");
  }
  return content;
}

absl::StatusOr<Json> ReadJsonFile(const std::filesystem::path& path, size_t limit_bytes) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(path, limit_bytes));
  return ParseJson(path.string(), text);
}

std::string Printable(std::string_view name) {
  constexpr size_t kLongest = 200;
  std::string printable = absl::CEscape(std::string(name.substr(0, kLongest)));
  if (name.size() > kLongest) printable += "...";
  return printable;
}

}  // namespace strata::engine
