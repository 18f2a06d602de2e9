#include "engine/json_file.h"

#include <cstdio>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "engine/errors.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// Watches the parser's events for what JSON allows and we do not: deep nesting, and an object with
// the same key twice, of which every reader would pick another.
class Guard {
 public:
  // Returning false drops the value, so that a refused text takes no memory either.
  bool operator()(int depth, Json::parse_event_t event, const Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        too_deep_ = too_deep_ || depth >= kMaxJsonDepth;
        if (event == Json::parse_event_t::object_start && !too_deep_) keys_.emplace_back();
        break;
      case Json::parse_event_t::key:
        if (ok() && !keys_.back().insert(value.get_ref<const std::string&>()).second) {
          repeated_key_ = PrintableJson(value);
        }
        break;
      case Json::parse_event_t::object_end:
        if (!too_deep_ && !keys_.empty()) keys_.pop_back();
        break;
      default:
        break;
    }
    return ok();
  }

  bool ok() const { return !too_deep_ && repeated_key_.empty(); }

  absl::Status status(std::string_view name) const {
    if (too_deep_) {
      return InvalidArgument(name, ": JSON nested deeper than the limit of ", kMaxJsonDepth);
    }
    if (!repeated_key_.empty()) {
      return InvalidArgument(name, ": key ", repeated_key_, " twice");
    }
    return absl::OkStatus();
  }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
  bool too_deep_ = false;
  std::string repeated_key_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view name, std::string_view text) {
  Guard guard;
  try {
    Json value = Json::parse(text.begin(), text.end(),
                             [&guard](int depth, Json::parse_event_t event, Json& parsed) {
                               return guard(depth, event, parsed);
                             });
    if (absl::Status status = guard.status(name); !status.ok()) return status;
    return value;
  } catch (const Json::parse_error& error) {
    return InvalidArgument(name, ": not JSON, the error is at byte ", error.byte, " of ",
                           text.size());
  } catch (const Json::exception&) {
    return InvalidArgument(name, ": JSON with a number beyond the range of float64");
  }
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
  absl::StatusOr<std::string> text = ReadFile(path, limit_bytes);
  if (!text.ok()) return text.status();
  return ParseJson(path.string(), *text);
}

std::string Printable(std::string_view name) {
  constexpr size_t kLongest = 200;
  std::string printable = absl::CEscape(std::string(name.substr(0, kLongest)));
  if (name.size() > kLongest) printable += "...";
  return printable;
}

std::string PrintableJson(const Json& value) {
  constexpr size_t kLongest = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, text.size(), "...");
  return text;
}

}  // namespace strata::engine
