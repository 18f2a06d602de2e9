#include "server/text/token_decoder.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "server/base/string_util.h"
#include "server/text/byte_level.h"
#include "server/text/metaspace.h"

namespace strata::server {
namespace {

constexpr int64_t kMaxStrip = 4096;

void StripFront(const TokenDecoder::Strip& strip, size_t* count, std::string* text) {
  size_t begin = 0;
  while (*count > 0 && std::string_view(*text).substr(begin).starts_with(strip.content)) {
    begin += strip.content.size();
    --*count;
  }
  text->erase(0, begin);
}

void StripBack(const TokenDecoder::Strip& strip, std::string* text) {
  for (size_t i = 0; i < strip.stop && text->ends_with(strip.content); ++i) {
    text->resize(text->size() - strip.content.size());
  }
}

class ReplaceStep : public TokenDecoder::TokenStep {
 public:
  ReplaceStep(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  void Apply(bool, std::string* token) const override { ReplaceAll(from_, to_, token); }

 private:
  const std::string from_;
  const std::string to_;
};

// "<0x41>" is the byte 0x41.
class ByteFallbackStep : public TokenDecoder::TokenStep {
 public:
  void Apply(bool, std::string* token) const override {
    if (token->size() != 6 || !token->starts_with("<0x") || token->back() != '>') return;
    const std::string digits = token->substr(3, 2);
    if (!std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit)) return;
    *token = absl::HexStringToBytes(digits);
  }
};

class ByteLevelStep : public TokenDecoder::TokenStep {
 public:
  void Apply(bool, std::string* token) const override {
    AppendFromByteLevel(std::exchange(*token, {}), token);
  }
};

// Turns marks into spaces, but drops the first token's marks: encoding put them in front.
class MetaspaceStep : public TokenDecoder::TokenStep {
 public:
  explicit MetaspaceStep(Metaspace metaspace) : metaspace_(std::move(metaspace)) {}
  void Apply(bool is_first, std::string* token) const override {
    const bool drop = is_first && metaspace_.scheme != PrependScheme::kNever;
    ReplaceAll(metaspace_.replacement, drop ? "" : " ", token);
  }

 private:
  const Metaspace metaspace_;
};

class StripStep : public TokenDecoder::TokenStep {
 public:
  explicit StripStep(TokenDecoder::Strip strip) : strip_(std::move(strip)) {}
  void Apply(bool, std::string* token) const override {
    size_t count = strip_.start;
    StripFront(strip_, &count, token);
    StripBack(strip_, token);
  }

 private:
  const TokenDecoder::Strip strip_;
};

std::unique_ptr<const TokenDecoder::TokenStep> ParseReplace(JsonReader object) {
  // Decoded text needs no pattern: a string is enough.
  const std::string from = object.Object("pattern").String("String");
  if (object.ok() && from.empty()) object.FailExpected("pattern", "{\"String\": some text}");
  return std::make_unique<ReplaceStep>(from, object.String("content"));
}

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::FromJson(JsonReader root) {
  TokenDecoder decoder;
  if (root.Has("decoder")) {
    decoder.AddSteps(root.Object("decoder"));
  } else {
    decoder.separator_ = ' ';
  }
  if (!root.ok()) return root.status();
  return decoder;
}

void TokenDecoder::AddSteps(JsonReader object) {
  const std::string type = object.String("type");
  if (!object.ok()) return;
  if (type == "Sequence") {
    for (const JsonReader& step : object.Objects("decoders")) AddSteps(step);
  } else if (type == "Fuse") {
    joined_ = true;
  } else if (type == "Strip") {
    const auto count = [&](const char* name) {
      return static_cast<size_t>(object.Integer(name, 0, kMaxStrip));
    };
    Strip strip{ReadCharacter(&object, "content"), count("start"), count("stop")};
    if (joined_) {
      text_steps_.push_back(std::move(strip));
    } else {
      token_steps_.push_back(std::make_unique<StripStep>(std::move(strip)));
    }
  } else if (joined_) {
    object.FailExpected("type", "Fuse or Strip after the tokens are joined");
  } else if (type == "Replace") {
    token_steps_.push_back(ParseReplace(object));
  } else if (type == "ByteFallback") {
    token_steps_.push_back(std::make_unique<ByteFallbackStep>());
  } else if (type == "Metaspace") {
    token_steps_.push_back(std::make_unique<MetaspaceStep>(Metaspace::FromJson(object)));
  } else if (type == "ByteLevel") {
    token_steps_.push_back(std::make_unique<ByteLevelStep>());
    joined_ = true;
  } else {
    object.FailExpected("type", "a supported decoder");
  }
}

TokenDecoderStream::TokenDecoderStream(const TokenDecoder& decoder) : decoder_(decoder) {
  for (const TokenDecoder::Strip& strip : decoder.text_steps_) {
    states_.push_back({strip.start, {}});
  }
}

void TokenDecoderStream::Push(std::string_view token, std::string* out) {
  std::string text(token);
  for (const auto& step : decoder_.token_steps_) step->Apply(is_first_, &text);
  if (!is_first_) text.insert(0, decoder_.separator_);
  is_first_ = false;
  PushText(0, std::move(text), out);
}

// Passes `text` through the steps from `step` on.
void TokenDecoderStream::PushText(size_t step, std::string text, std::string* out) {
  for (; step < states_.size() && !text.empty(); ++step) {
    const TokenDecoder::Strip& strip = decoder_.text_steps_[step];
    StripState& state = states_[step];
    text.insert(0, std::exchange(state.held, {}));
    StripFront(strip, &state.start_left, &text);
    size_t hold = strip.stop * strip.content.size();
    if (state.start_left > 0 && strip.content.starts_with(text)) {
      hold = text.size();  // the start of one more copy, or nothing at all
    } else {
      state.start_left = 0;
    }
    const size_t settled = text.size() - std::min(text.size(), hold);
    state.held = text.substr(settled);
    text.resize(settled);
  }
  out->append(text);
}

void TokenDecoderStream::Finish(std::string* out) {
  for (size_t step = 0; step < states_.size(); ++step) {
    std::string text = std::exchange(states_[step].held, {});
    StripBack(decoder_.text_steps_[step], &text);
    PushText(step + 1, std::move(text), out);
  }
}

}  // namespace strata::server
