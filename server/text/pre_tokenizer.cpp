#include "server/text/pre_tokenizer.h"

#include <optional>
#include <string_view>
#include <utility>

#include "kvcache/base/errors.h"
#include "server/base/string_util.h"
#include "server/base/unicode.h"
#include "server/text/byte_level.h"
#include "server/text/metaspace.h"
#include "server/text/normalizer.h"
#include "server/text/pattern.h"
#include "server/text/split.h"

namespace strata::server {
namespace {

// \w+|[^\w\s]+ in the syntax of UTS #18, whose \w has fewer numbers than Oniguruma's.
constexpr std::string_view kWhitespacePattern =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}]+)"
    R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}\s]+)";

// Respells each piece with f(piece, &out), which appends to `out`.
template <typename F>
void RespellPieces(F&& f, PreTokenizedText* text) {
  std::string out;
  out.reserve(text->text.size() + text->text.size() / 2);
  for (TextRange& piece : text->pieces) {
    const size_t begin = out.size();
    f(std::string_view(text->text).substr(piece.begin, piece.size()), &out);
    piece = {begin, out.size()};
  }
  text->text = std::move(out);
}

class SplitPreTokenizer : public PreTokenizer {
 public:
  SplitPreTokenizer(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  absl::Status Apply(PreTokenizedText* text) const override {
    return SplitPieces(pattern_.NewSearch(), behavior_, invert_, text);
  }

 private:
  const Pattern pattern_;
  const SplitBehavior behavior_;
  const bool invert_;
};

class CharPreTokenizer : public PreTokenizer {
 public:
  CharPreTokenizer(bool (*is_match)(char32_t), SplitBehavior behavior)
      : is_match_(is_match), behavior_(behavior) {}
  absl::Status Apply(PreTokenizedText* text) const override {
    return SplitPieces(SearchChars(is_match_), behavior_, /*invert=*/false, text);
  }

 private:
  bool (*const is_match_)(char32_t);
  const SplitBehavior behavior_;
};

class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, std::optional<Pattern> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

  absl::Status Apply(PreTokenizedText* text) const override {
    if (add_prefix_space_) {
      RespellPieces(
          [](std::string_view piece, std::string* out) {
            if (!piece.starts_with(" ")) out->push_back(' ');
            out->append(piece);
          },
          text);
    }
    if (pattern_) {
      RETURN_IF_ERROR(
          SplitPieces(pattern_->NewSearch(), SplitBehavior::kIsolated, /*invert=*/false, text));
    }
    RespellPieces([](std::string_view piece, std::string* out) { AppendByteLevel(piece, out); },
                  text);
    return absl::OkStatus();
  }

 private:
  const bool add_prefix_space_;
  const std::optional<Pattern> pattern_;
};

class MetaspacePreTokenizer : public PreTokenizer {
 public:
  MetaspacePreTokenizer(Metaspace metaspace, Pattern mark)
      : metaspace_(std::move(metaspace)), mark_(std::move(mark)) {}

  absl::Status Apply(PreTokenizedText* text) const override {
    bool at_start = text->at_start;
    RespellPieces(
        [&](std::string_view piece, std::string* out) {
          std::string respelled(piece);
          ReplaceAll(" ", metaspace_.replacement, &respelled);
          const bool prepend =
              metaspace_.scheme == PrependScheme::kAlways ||
              (metaspace_.scheme == PrependScheme::kFirst && std::exchange(at_start, false));
          if (prepend && !respelled.starts_with(metaspace_.replacement)) {
            out->append(metaspace_.replacement);
          }
          out->append(respelled);
        },
        text);
    if (!metaspace_.split) return absl::OkStatus();
    return SplitPieces(mark_.NewSearch(), SplitBehavior::kMergedWithNext, /*invert=*/false, text);
  }

 private:
  const Metaspace metaspace_;
  const Pattern mark_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}
  absl::Status Apply(PreTokenizedText* text) const override {
    const size_t max_size = MaxGrownBytes(text->text.size());
    for (const auto& step : steps_) {
      RETURN_IF_ERROR(step->Apply(text));
      RETURN_IF_ERROR(CheckTextSize(text->text.size(), max_size));
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

SplitBehavior ParseBehavior(JsonReader* object, std::string_view fallback) {
  const std::string name = object->String("behavior", fallback);
  const std::optional<SplitBehavior> behavior = SplitBehaviorFromName(name);
  if (!behavior) {
    object->FailExpected("behavior",
                         "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
  }
  return behavior.value_or(SplitBehavior::kIsolated);
}

std::unique_ptr<PreTokenizer> ParseSplit(JsonReader object) {
  absl::StatusOr<Pattern> pattern = Pattern::FromJson(object);
  const SplitBehavior behavior = ParseBehavior(&object, "");
  const bool invert = object.Bool("invert", false);
  if (!object.ok()) return nullptr;
  return std::make_unique<SplitPreTokenizer>(*std::move(pattern), behavior, invert);
}

std::unique_ptr<PreTokenizer> ParseByteLevel(JsonReader object) {
  const bool add_prefix_space = object.Bool("add_prefix_space", true);
  std::optional<Pattern> pattern;
  if (object.Bool("use_regex", true)) pattern = *Pattern::FromRegex(kGpt2Pattern);
  return std::make_unique<ByteLevelPreTokenizer>(add_prefix_space, std::move(pattern));
}

std::unique_ptr<PreTokenizer> ParseMetaspace(JsonReader object) {
  Metaspace metaspace = Metaspace::FromJson(object);
  if (!object.ok()) return nullptr;
  Pattern mark = Pattern::FromLiteral(metaspace.replacement);
  return std::make_unique<MetaspacePreTokenizer>(std::move(metaspace), std::move(mark));
}

// Null, with the reader's status set, if the object is wrong.
std::unique_ptr<PreTokenizer> Parse(JsonReader object) {
  const std::string type = object.String("type");
  if (!object.ok()) return nullptr;
  if (type == "ByteLevel") return ParseByteLevel(object);
  if (type == "Split") return ParseSplit(object);
  if (type == "Metaspace") return ParseMetaspace(object);
  if (type == "Digits") {
    return std::make_unique<CharPreTokenizer>(IsNumeric, object.Bool("individual_digits", false)
                                                             ? SplitBehavior::kIsolated
                                                             : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    return std::make_unique<CharPreTokenizer>(IsPunctuation, ParseBehavior(&object, "Isolated"));
  }
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharPreTokenizer>(IsWhitespace, SplitBehavior::kRemoved);
  }
  if (type == "Whitespace") {
    return std::make_unique<SplitPreTokenizer>(*Pattern::FromRegex(kWhitespacePattern),
                                               SplitBehavior::kRemoved, /*invert=*/true);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    for (const JsonReader& step : object.Objects("pretokenizers")) {
      steps.push_back(Parse(step));
      if (steps.back() == nullptr) return nullptr;
    }
    return std::make_unique<PreTokenizerSequence>(std::move(steps));
  }
  object.FailExpected("type", "a supported pre-tokenizer");
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::FromJson(JsonReader root) {
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  if (root.Has("pre_tokenizer")) pre_tokenizer = Parse(root.Object("pre_tokenizer"));
  if (!root.ok()) return root.status();
  return pre_tokenizer;
}

}  // namespace strata::server
