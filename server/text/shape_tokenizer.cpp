#include "server/text/shape_tokenizer.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/text/byte_level.h"

namespace strata::server {

nlohmann::json ShapeTokenizer(int32_t words) {
  constexpr int32_t kBytes = 256;
  nlohmann::json vocab = nlohmann::json::object();
  for (int32_t id = 0; id < words; ++id) {
    const std::string text =
        id < kBytes ? std::string(1, static_cast<char>(id)) : absl::StrCat(" ", id);
    std::string spelled;
    AppendByteLevel(text, &spelled);
    vocab[spelled] = id;
  }
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"pre_tokenizer", byte_level},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
}

}  // namespace strata::server
