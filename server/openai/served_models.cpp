#include "server/openai/served_models.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvcache/base/error_details.h"
#include "server/base/json.h"
#include "server/base/unicode.h"
#include "server/openai/openai_json.h"

namespace strata::server {
namespace {

using nlohmann::json;

constexpr size_t kMaxNameBytes = 256;

int64_t SecondsSince1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

json ModelEntry(const std::string& name, int64_t created, int32_t max_positions) {
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "strata"},
          {"max_model_len", max_positions}};
}

}  // namespace

absl::Status CheckModelName(const std::string& text) {
  const auto is_control = [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); };
  if (!text.empty() && text.size() <= kMaxNameBytes && text.back() != '/' &&
      std::ranges::none_of(text, is_control) && !FindInvalidUtf8(text)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(DescribeJson(text), " is not a name of 1..", kMaxNameBytes,
                   " bytes of UTF-8 without control characters and without a slash at its end"));
}

ServedModels::ServedModels(std::vector<std::string> names, int32_t max_positions)
    : names_(std::move(names)), max_positions_(max_positions), created_(SecondsSince1970()) {}

absl::Status ServedModels::Check(const std::string& asked) const {
  return asked.empty() ? absl::OkStatus() : Find(asked);
}

absl::Status ServedModels::Find(const std::string& asked) const {
  if (std::ranges::find(names_, asked) != names_.end()) return absl::OkStatus();
  return WithErrorCode(InField("model", absl::NotFoundError(absl::StrCat(
                                            DescribeJson(asked), " is not served here; \"",
                                            absl::StrJoin(names_, "\", \""),
                                            names_.size() == 1 ? "\" is" : "\" are"))),
                       "model_not_found");
}

HttpReply ServedModels::List() const {
  json data = json::array();
  for (const std::string& name : names_) data.push_back(ModelEntry(name, created_, max_positions_));
  return {.body = JsonLine({{"object", "list"}, {"data", std::move(data)}})};
}

HttpReply ServedModels::Get(const std::string& name) const {
  if (const absl::Status status = Find(name); !status.ok()) return StatusReply(status);
  return {.body = JsonLine(ModelEntry(name, created_, max_positions_))};
}

}  // namespace strata::server
