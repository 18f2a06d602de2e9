#include "server/text/post_processor.h"

#include <string>

#include "server/text/bpe.h"

namespace strata::server {
namespace {

using nlohmann::json;

// The ids of a special token named in a template, from the template's own table.
std::vector<int32_t> SpecialTokenIds(JsonReader processor, const std::string& name) {
  JsonReader entry = processor.Object("special_tokens").Object(name);
  std::vector<int32_t> ids;
  const json& values = entry.Value("ids");
  if (!values.is_array()) {
    entry.FailExpected("ids", "an array");
    return ids;
  }
  for (const json& value : values) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxTokenId) {
      entry.Fail("ids", "expected token ids, got " + DescribeJson(value));
      return ids;
    }
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

// Puts the template's tokens around the tokens already in `frame`.
void AddTemplate(JsonReader processor, TokenFrame* frame) {
  TokenFrame outer;
  bool seen_text = false;
  for (JsonReader& piece : processor.Objects("single")) {
    if (piece.Has("Sequence")) {
      if (seen_text || piece.Object("Sequence").String("id") != "A") {
        piece.Fail("Sequence", "expected the sequence A once");
      }
      seen_text = true;
      continue;
    }
    const std::string name = piece.Object("SpecialToken").String("id");
    if (!processor.ok()) return;
    const std::vector<int32_t> ids = SpecialTokenIds(processor, name);
    std::vector<int32_t>& side = seen_text ? outer.after : outer.before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (processor.ok() && !seen_text) processor.FailExpected("single", "the sequence A in it");
  frame->before.insert(frame->before.begin(), outer.before.begin(), outer.before.end());
  frame->after.insert(frame->after.end(), outer.after.begin(), outer.after.end());
}

void Add(JsonReader processor, TokenFrame* frame) {
  const std::string type = processor.String("type");
  if (!processor.ok() || type == "ByteLevel") return;  // ByteLevel changes only offsets
  if (type == "TemplateProcessing") {
    AddTemplate(processor, frame);
  } else if (type == "Sequence") {
    for (const JsonReader& step : processor.Objects("processors")) Add(step, frame);
  } else {
    processor.FailExpected("type", "a supported post-processor");
  }
}

}  // namespace

absl::StatusOr<TokenFrame> TokenFrame::FromJson(JsonReader root) {
  TokenFrame frame;
  if (root.Has("post_processor")) Add(root.Object("post_processor"), &frame);
  if (!root.ok()) return root.status();
  return frame;
}

}  // namespace strata::server
