#include "kvcache/base/error_details.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace strata {
namespace {

constexpr char kErrorCodeType[] = "strata/error-code";
constexpr char kFieldType[] = "strata/field";
constexpr char kRetryAfterType[] = "strata/retry-after-milliseconds";

std::string PayloadOf(const absl::Status& status, absl::string_view type) {
  const absl::optional<absl::Cord> payload = status.GetPayload(type);
  return payload.has_value() ? std::string(*payload) : "";
}

}  // namespace

absl::Status WithErrorCode(absl::Status status, absl::string_view code) {
  status.SetPayload(kErrorCodeType, absl::Cord(code));
  return status;
}

std::string ErrorCodeOf(const absl::Status& status) { return PayloadOf(status, kErrorCodeType); }

absl::Status WithField(absl::Status status, absl::string_view field) {
  status.SetPayload(kFieldType, absl::Cord(field));
  return status;
}

std::string FieldOf(const absl::Status& status) { return PayloadOf(status, kFieldType); }

absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds delay) {
  status.SetPayload(kRetryAfterType, absl::Cord(std::to_string(delay.count())));
  return status;
}

std::optional<std::chrono::milliseconds> RetryAfterOf(const absl::Status& status) {
  int64_t count = 0;
  if (!absl::SimpleAtoi(PayloadOf(status, kRetryAfterType), &count)) return {};
  return std::chrono::milliseconds(count);
}

absl::Status InField(absl::string_view field, const absl::Status& status) {
  absl::Status named(status.code(), absl::StrCat(field, ": ", status.message()));
  status.ForEachPayload([&named](absl::string_view type, const absl::Cord& payload) {
    named.SetPayload(type, payload);
  });
  return WithField(std::move(named), field);
}

}  // namespace strata
