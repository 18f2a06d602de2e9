#include "server/base/json.h"

#include "engine/base/json_file.h"
#include "kvcache/base/error_details.h"

namespace strata::server {

using nlohmann::json;

absl::StatusOr<json> ParseBody(std::string_view body) {
  absl::StatusOr<json> document = engine::ParseJson("the body", body);
  if (!document.ok() || document->is_object()) return document;
  // The value may be the prompt itself.
  return InvalidField("document", "expected an object, got ", KindOfJson(*document));
}

std::string JsonLine(const json& document) {
  return document.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

}  // namespace strata::server
