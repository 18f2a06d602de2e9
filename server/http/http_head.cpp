#include "server/http/http_head.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "server/base/string_util.h"

namespace strata::server {
namespace {

constexpr std::string_view kTwice = "the length of the body is given twice";
constexpr std::string_view kRequestId = "X-Request-Id";
constexpr size_t kMaxRequestIdBytes = 128;

struct Field {
  std::string_view name;
  std::string_view value;  // without blanks around it; may hold control characters
};

bool IsNameByte(char c) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         kMarks.find(c) != std::string_view::npos;
}

bool IsControl(char c) { return c != '\t' && absl::ascii_iscntrl(static_cast<unsigned char>(c)); }

// Parses "NAME: VALUE\r\n" by RFC 9112: no blank before the colon, no continued line.
std::optional<Field> ParseField(std::string_view line) {
  constexpr std::string_view kBlanks = " \t";
  if (!line.ends_with("\r\n")) return std::nullopt;
  line.remove_suffix(2);
  const size_t colon = line.find(':');
  if (colon == 0 || colon == std::string_view::npos) return std::nullopt;
  const std::string_view name = line.substr(0, colon);
  std::string_view value = line.substr(colon + 1);
  if (!std::ranges::all_of(name, IsNameByte)) return std::nullopt;
  value.remove_prefix(std::min(value.find_first_not_of(kBlanks), value.size()));
  return Field{.name = name, .value = value.substr(0, value.find_last_not_of(kBlanks) + 1)};
}

}  // namespace

bool HttpHead::Add(std::string_view line) {
  if (num_lines_++ == 0 || line == "\r\n") return true;
  const std::optional<Field> field = ParseField(line);
  const auto is = [&](std::string_view name) {
    return absl::EqualsIgnoreCase(ToAbsl(field->name), ToAbsl(name));
  };
  if (field && is(kRequestId)) AddRequestId(field->value);
  if (!field || std::ranges::any_of(field->value, IsControl)) {
    Fail("a header is not \"NAME: VALUE\" in a line of its own");
    return true;
  }
  if (is("Content-Length")) AddLength(field->value);
  if (is("Transfer-Encoding")) AddCoding(field->value);
  if (is("Origin")) origin_ = field->value;
  if (is("Access-Control-Request-Method")) requested_method_ = field->value;
  if (is("Access-Control-Request-Headers")) requested_headers_ = field->value;
  // For ranges the library would use a pattern that takes 4 MiB of stack for a line of 8 KiB, and
  // repeat an answer once for each range. It would parse forms, limited to 8 KiB, and bodies of
  // several parts. No route needs any of this.
  return !is("Range") && !is("Content-Type");
}

void HttpHead::Fail(std::string_view error) {
  if (error_.empty()) error_ = error;
}

void HttpHead::AddRequestId(std::string_view value) {
  if (std::exchange(has_request_id_, true)) Fail(Concat(kRequestId, ": given twice"));
  const auto control = std::ranges::find_if(
      value, [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); });
  if (value.size() > kMaxRequestIdBytes) {
    Fail(Concat(kRequestId, ": ", value.size(), " bytes; at most ", kMaxRequestIdBytes));
  } else if (control != value.end()) {
    Fail(Concat(kRequestId, ": byte ", control - value.begin(),
                " is a control character; it may hold none"));
  } else {
    request_id_ = value;
  }
}

void HttpHead::AddLength(std::string_view value) {
  const auto is_digit = [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); };
  if (value.empty() || !std::ranges::all_of(value, is_digit)) Fail("Content-Length: not a number");
  if (has_length_ || chunked_) Fail(kTwice);
  has_length_ = true;
  has_body_ = value.find_first_not_of('0') != std::string_view::npos;
}

void HttpHead::AddCoding(std::string_view value) {
  if (!absl::EqualsIgnoreCase(ToAbsl(value), "chunked")) Fail("Transfer-Encoding: not \"chunked\"");
  if (has_length_ || chunked_) Fail(kTwice);
  chunked_ = has_body_ = true;
}

}  // namespace strata::server
