// The body of a POST to /v1/completions, up to the engine's input. Answers with its text, or about
// its errors, are JSON for any bytes.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nlohmann/json.hpp"
#include "server/openai/openai_json.h"
#include "server/openai/openai_request.h"
#include "tests/fuzz/request_fuzzing.h"

namespace {

using strata::testing::AbortUnless;

void CheckJson(const std::string& text) {
  AbortUnless(!nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false).is_discarded());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto request = strata::server::ParseCompletion({reinterpret_cast<const char*>(data), size});
  if (!request.ok()) {
    CheckJson(strata::server::StatusReply(request.status()).body);
    strata::testing::FollowToTheEngine(request.status());
    return 0;
  }
  strata::server::CompletionChoice choice;
  if (const auto* text = std::get_if<std::string>(&request->prompts.at(0))) choice.text = *text;
  CheckJson(strata::server::CompletionJson({.id = "a", .model = request->model}, {choice}, {}));
  AbortUnless(request->stream || !(request->include_usage || request->continuous_usage));
  for (auto& prompt : request->prompts) {
    strata::server::GenerationRequest generation = request->generation;
    std::visit([&generation](auto& value) { generation.prompt = std::move(value); }, prompt);
    strata::testing::FollowToTheEngine(std::move(generation));
  }
  return 0;
}
