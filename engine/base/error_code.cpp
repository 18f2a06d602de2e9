#include "engine/base/error_code.h"

#include "absl/strings/cord.h"

namespace strata::engine {
namespace {

constexpr char kErrorCodeType[] = "strata/error-code";

}  // namespace

absl::Status WithErrorCode(absl::Status status, absl::string_view code) {
  status.SetPayload(kErrorCodeType, absl::Cord(code));
  return status;
}

std::string ErrorCodeOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorCodeType);
  return payload.has_value() ? std::string(*payload) : "";
}

}  // namespace strata::engine
