#include "tests/load/page.h"

#include "absl/strings/str_replace.h"
#include "tests/load/page_template.h"

namespace strata::load {

std::string MakePage(const std::vector<nlohmann::ordered_json>& reports) {
  nlohmann::ordered_json shown = nlohmann::ordered_json::array();
  for (nlohmann::ordered_json report : reports) {
    for (const char* key : {"input_lens", "output_lens", "ttfts", "itls", "latencies",
                            "start_times", "queue_times", "generated_texts", "errors"}) {
      report.erase(key);
    }
    shown.push_back(std::move(report));
  }
  // In HTML a "</script>" within a text would end the script.
  const std::string data = absl::StrReplaceAll(
      shown.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), {{"<", "\\u003c"}});
  return absl::StrReplaceAll(kPageTemplate, {{"{{DATA}}", data}});
}

}  // namespace strata::load
