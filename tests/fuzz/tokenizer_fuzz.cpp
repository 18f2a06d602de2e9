// A tokenizer.json, a zero byte, a text: loading any file ends in a status, and a loaded tokenizer
// encodes and decodes without a crash, also when streaming.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "server/base/unicode.h"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"

namespace {

using strata::server::Detokenizer;
using strata::server::TakeValidUtf8;
using strata::server::Tokenizer;

std::string ValidUtf8(std::string bytes) {
  std::string text;
  TakeValidUtf8(/*at_end=*/true, &bytes, &text);
  return text;
}

void RoundTrip(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) return;
  const auto decoded = tokenizer.Decode(*ids);
  // A template may name ids that are no token.
  if (!decoded.ok()) return;
  Detokenizer detokenizer(&tokenizer);
  std::string streamed;
  for (const int32_t id : *ids) streamed += detokenizer.Append({&id, 1});
  streamed += detokenizer.Finish();
  if (streamed != ValidUtf8(*decoded)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view document = input.substr(0, zero);
  const std::string_view text = zero == std::string_view::npos ? input : input.substr(zero + 1);
  const auto tokenizer = Tokenizer::FromJson(document);
  if (!tokenizer.ok()) return 0;
  RoundTrip(**tokenizer, text);
  RoundTrip(**tokenizer, ValidUtf8(std::string(text)));
  return 0;
}
