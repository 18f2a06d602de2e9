#include "server/text/normalizer.h"

#include <string_view>
#include <utility>
#include <vector>

#include "kvcache/base/errors.h"
#include "server/base/string_util.h"
#include "server/base/unicode.h"
#include "server/text/pattern.h"

namespace strata::server {
namespace {

class UnicodeNormalizer : public Normalizer {
 public:
  explicit UnicodeNormalizer(NormalForm form) : form_(form) {}
  absl::Status Apply(size_t, std::string* text) const override {
    *text = Normalize(form_, *text);
    return absl::OkStatus();
  }

 private:
  const NormalForm form_;
};

class LowercaseNormalizer : public Normalizer {
 public:
  absl::Status Apply(size_t, std::string* text) const override {
    *text = Lowercase(*text);
    return absl::OkStatus();
  }
};

class StripAccentsNormalizer : public Normalizer {
 public:
  absl::Status Apply(size_t, std::string* text) const override {
    std::string out;
    ForEachChar(*text, [&](char32_t c, size_t begin, size_t end) {
      if (!IsMark(c)) out.append(*text, begin, end - begin);
    });
    *text = std::move(out);
    return absl::OkStatus();
  }
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::Status Apply(size_t, std::string* text) const override {
    if (!text->empty()) text->insert(0, prefix_);
    return absl::OkStatus();
  }

 private:
  const std::string prefix_;
};

class ReplaceNormalizer : public Normalizer {
 public:
  ReplaceNormalizer(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  absl::Status Apply(size_t max_size, std::string* text) const override {
    std::vector<TextRange> matches;
    RETURN_IF_ERROR(pattern_.NewSearch()(*text, &matches));
    const size_t grown = text->size() + matches.size() * content_.size();
    RETURN_IF_ERROR(CheckTextSize(grown, max_size));
    std::string out;
    out.reserve(grown);
    size_t copied = 0;
    for (const TextRange& match : matches) {
      out.append(*text, copied, match.begin - copied);
      out.append(content_);
      copied = match.end;
    }
    out.append(*text, copied);
    *text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const Pattern pattern_;
  const std::string content_;
};

class StripNormalizer : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(size_t, std::string* text) const override {
    size_t begin = text->size();
    size_t end = 0;
    ForEachChar(*text, [&](char32_t c, size_t char_begin, size_t char_end) {
      if (IsWhitespace(c)) return;
      begin = std::min(begin, char_begin);
      end = char_end;
    });
    if (!left_) begin = 0;
    if (!right_) end = text->size();
    *text = begin < end ? text->substr(begin, end - begin) : "";
    return absl::OkStatus();
  }

 private:
  const bool left_;
  const bool right_;
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  absl::Status Apply(size_t max_size, std::string* text) const override {
    for (const auto& step : steps_) {
      RETURN_IF_ERROR(step->Apply(max_size, text));
      RETURN_IF_ERROR(CheckTextSize(text->size(), max_size));
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<Normalizer>> steps_;
};

// Null, with the reader's status set, if the object is wrong.
std::unique_ptr<Normalizer> Parse(JsonReader object) {
  const std::string type = object.String("type");
  if (!object.ok()) return nullptr;
  if (type == "NFC") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<LowercaseNormalizer>();
  if (type == "StripAccents") return std::make_unique<StripAccentsNormalizer>();
  if (type == "Prepend") return std::make_unique<PrependNormalizer>(object.String("prepend"));
  if (type == "Replace") {
    absl::StatusOr<Pattern> pattern = Pattern::FromJson(object);
    if (!pattern.ok()) return nullptr;
    return std::make_unique<ReplaceNormalizer>(*std::move(pattern), object.String("content"));
  }
  if (type == "Strip") {
    const bool left = object.Bool("strip_left", true);
    return std::make_unique<StripNormalizer>(left, object.Bool("strip_right", true));
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const JsonReader& step : object.Objects("normalizers")) {
      steps.push_back(Parse(step));
      if (steps.back() == nullptr) return nullptr;
    }
    return std::make_unique<NormalizerSequence>(std::move(steps));
  }
  object.FailExpected("type", "a supported normalizer");
  return nullptr;
}

}  // namespace

absl::Status CheckTextSize(size_t size, size_t max_size) {
  if (size <= max_size) return absl::OkStatus();
  return absl::InvalidArgumentError(Concat("a text of ", size, " bytes is longer than ", max_size));
}

absl::StatusOr<std::unique_ptr<Normalizer>> Normalizer::FromJson(JsonReader root) {
  std::unique_ptr<Normalizer> normalizer;
  if (root.Has("normalizer")) normalizer = Parse(root.Object("normalizer"));
  if (!root.ok()) return root.status();
  return normalizer;
}

}  // namespace strata::server
