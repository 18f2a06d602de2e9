#include "server/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "server/base/string_util.h"
#include "server/base/unicode.h"
#include "server/text/bpe.h"

namespace strata::server {
namespace {

// Bounds the work that a token can cause at each byte of a text.
constexpr size_t kMaxContentBytes = 4096;

// The character that ends before `position`. REQUIRES: valid UTF-8, position > 0.
size_t PreviousChar(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

bool TouchesWord(std::string_view text, TextRange range) {
  if (range.begin > 0) {
    if (IsWord(ReadUtf8(text, PreviousChar(text, range.begin)).code_point)) return true;
  }
  return range.end < text.size() && IsWord(ReadUtf8(text, range.end).code_point);
}

// `range` with the whitespace beside it, but not past `left_limit`.
TextRange TakeWhitespace(std::string_view text, TextRange range, const AddedToken& token,
                         size_t left_limit) {
  while (token.lstrip && range.begin > left_limit) {
    const size_t previous = PreviousChar(text, range.begin);
    if (!IsWhitespace(ReadUtf8(text, previous).code_point)) break;
    range.begin = previous;
  }
  if (token.lstrip) range.begin = std::max(range.begin, left_limit);
  while (token.rstrip && range.end < text.size()) {
    const Utf8Char next = ReadUtf8(text, range.end);
    if (!IsWhitespace(next.code_point)) break;
    range.end += next.size;
  }
  return range;
}

}  // namespace

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(JsonReader root) {
  std::vector<AddedToken> tokens;
  StringIdMap id_of;
  absl::flat_hash_map<int32_t, std::string> content_of;
  for (JsonReader& object : root.Objects("added_tokens")) {
    AddedToken token;
    token.id = static_cast<int32_t>(object.Integer("id", 0, kMaxTokenId));
    token.content = object.String("content");
    token.special = object.Bool("special", false);
    token.normalized = object.Bool("normalized", !token.special);
    token.single_word = object.Bool("single_word", false);
    token.lstrip = object.Bool("lstrip", false);
    token.rstrip = object.Bool("rstrip", false);
    if (!root.ok()) return root.status();
    if (token.content.empty() || token.content.size() > kMaxContentBytes) {
      return object.FailExpected("content", Concat("1 to ", kMaxContentBytes, " bytes"));
    }
    const bool new_content = id_of.emplace(token.content, token.id).second;
    const bool new_id = content_of.emplace(token.id, token.content).second;
    if (id_of[token.content] != token.id || content_of[token.id] != token.content) {
      return object.Fail("id", Concat(token.id, " and ", DescribeJson(object.Value("content")),
                                      " are not given to each other alone"));
    }
    if (new_content && new_id) tokens.push_back(std::move(token));
  }
  if (!root.ok()) return root.status();
  return tokens;
}

void AddedTokenMatcher::Add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return;
  uint32_t node = 0;
  for (const char byte : pattern) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
    node = edges_.try_emplace(edge, static_cast<uint32_t>(edges_.size() + 1)).first->second;
  }
  if (!accepts_.try_emplace(node, tokens_.size()).second) return;
  first_bytes_.set(static_cast<uint8_t>(pattern[0]));
  tokens_.push_back(token);
}

AddedTokenMatcher::Hit AddedTokenMatcher::LongestAt(std::string_view text, size_t begin) const {
  Hit longest;
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const auto accept = accepts_.find(node);
    if (accept != accepts_.end()) longest = {&tokens_[accept->second], i + 1};
  }
  return longest;
}

std::vector<TextSection> AddedTokenMatcher::Split(std::string_view text, bool parse_special) const {
  std::vector<TextSection> sections;
  size_t covered = 0;
  for (size_t i = 0; i < text.size() && !tokens_.empty();) {
    const Hit hit = first_bytes_[static_cast<uint8_t>(text[i])] ? LongestAt(text, i) : Hit{};
    if (hit.token == nullptr) {
      ++i;
      continue;
    }
    const TextRange found{i, hit.end};
    i = hit.end;  // also if the token does not count: no shorter token is tried
    if (hit.token->special && !parse_special) continue;
    if (hit.token->single_word && TouchesWord(text, found)) continue;
    const TextRange range = TakeWhitespace(text, found, *hit.token, covered);
    if (covered < range.begin) sections.push_back({{covered, range.begin}, std::nullopt});
    sections.push_back({range, hit.token->id});
    covered = range.end;
  }
  if (covered != text.size()) sections.push_back({{covered, text.size()}, std::nullopt});
  return sections;
}

}  // namespace strata::server
