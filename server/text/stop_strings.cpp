#include "server/text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/base/error_details.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

constexpr size_t kMaxStrings = 16;
constexpr size_t kMaxBytes = 256;

// The failure function of Knuth, Morris and Pratt.
std::vector<size_t> Fallbacks(std::string_view text) {
  std::vector<size_t> fallback(text.size() + 1, 0);
  size_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = fallback[length];
    if (text[i] == text[length]) ++length;
    fallback[i + 1] = length;
  }
  return fallback;
}

}  // namespace

absl::StatusOr<StopStrings> StopStrings::Create(std::vector<std::string> strings, bool include) {
  std::erase(strings, "");
  if (strings.size() > kMaxStrings) {
    return InvalidField("stop", strings.size(), " strings is not at most ", kMaxStrings);
  }
  StopStrings result;
  result.include_ = include;
  for (size_t i = 0; i < strings.size(); ++i) {
    std::string& text = strings[i];
    if (text.size() > kMaxBytes) {
      return InvalidField("stop", text.size(), " bytes at ", i, " is not at most ", kMaxBytes);
    }
    if (const auto offset = FindInvalidUtf8(text)) {
      return InvalidField("stop", "the string at ", i, " is not UTF-8 at byte ", *offset);
    }
    std::vector<size_t> fallback = Fallbacks(text);
    result.patterns_.push_back({.text = std::move(text), .fallback = std::move(fallback)});
  }
  return result;
}

void StopStrings::AddSpecialTokens(const Tokenizer& tokenizer) {
  for (const Pattern& pattern : patterns_) {
    const std::optional<int32_t> id = tokenizer.TokenToId(pattern.text);
    if (id && tokenizer.IsSpecial(*id)) special_ids_.push_back(*id);
  }
}

bool StopStrings::EndsAt(int32_t token) const {
  return std::ranges::find(special_ids_, token) != special_ids_.end();
}

StopMatcher::StopMatcher(const StopStrings* strings)
    : strings_(strings), matched_(strings->patterns_.size(), 0) {}

bool StopMatcher::Push(std::string_view piece, bool armed, std::string* out) {
  const size_t begin = held_.size();
  held_.append(piece);
  for (size_t end = begin + 1; end <= held_.size(); ++end) {
    const StopStrings::Pattern* const met = Advance(held_[end - 1]);
    if (met == nullptr || !armed) continue;
    out->append(held_, 0, strings_->include_ ? end : end - met->text.size());
    held_.clear();
    met_ = met->text;
    return true;
  }
  size_t kept = 0;  // an included stop string needs no holding back
  if (!strings_->include_) {
    for (const size_t matched : matched_) kept = std::max(kept, matched);
  }
  out->append(held_, 0, held_.size() - kept);
  held_.erase(0, held_.size() - kept);
  return false;
}

void StopMatcher::Finish(std::string* out) {
  out->append(held_);
  held_.clear();
}

// The longest string that ends with this byte; null if none does.
const StopStrings::Pattern* StopMatcher::Advance(char byte) {
  const StopStrings::Pattern* longest = nullptr;
  for (size_t i = 0; i < matched_.size(); ++i) {
    const StopStrings::Pattern& pattern = strings_->patterns_[i];
    const auto& [text, fallback] = pattern;
    size_t& matched = matched_[i];
    while (matched > 0 && text[matched] != byte) matched = fallback[matched];
    if (text[matched] == byte) ++matched;
    if (matched == text.size()) {
      if (longest == nullptr || longest->text.size() < text.size()) longest = &pattern;
      matched = fallback[matched];
    }
  }
  return longest;
}

}  // namespace strata::server
