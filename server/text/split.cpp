#include "server/text/split.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kvcache/base/errors.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

struct Segment {
  TextRange range;
  bool is_match;
};

// Covers [0, size) with the matches and the text between them.
void CoverWithSegments(size_t size, const std::vector<TextRange>& matches, bool invert,
                       std::vector<Segment>* segments) {
  segments->clear();
  size_t covered = 0;
  for (const TextRange& match : matches) {
    if (covered != match.begin) segments->push_back({{covered, match.begin}, invert});
    segments->push_back({match, !invert});
    covered = match.end;
  }
  if (covered != size) segments->push_back({{covered, size}, invert});
}

// Whether a segment joins the one before it (for kMergedWithNext: the one after it).
bool JoinsNeighbour(SplitBehavior behavior, bool is_match, bool neighbour_is_match) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
    case SplitBehavior::kIsolated:
      return false;
    case SplitBehavior::kMergedWithPrevious:
    case SplitBehavior::kMergedWithNext:
      return is_match && !neighbour_is_match;
    case SplitBehavior::kContiguous:
      return is_match == neighbour_is_match;
  }
  return false;
}

// Joins segments in place as `behavior` says; each records whether its last part was a match.
void JoinSegments(SplitBehavior behavior, std::vector<Segment>* segments) {
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(segments->begin(), segments->end());
  size_t kept = 0;
  for (const Segment segment : *segments) {
    Segment* last = kept == 0 ? nullptr : &(*segments)[kept - 1];
    if (last != nullptr && JoinsNeighbour(behavior, segment.is_match, last->is_match)) {
      last->range.begin = std::min(last->range.begin, segment.range.begin);
      last->range.end = std::max(last->range.end, segment.range.end);
      last->is_match = segment.is_match;
    } else {
      (*segments)[kept++] = segment;
    }
  }
  segments->resize(kept);
  if (backwards) std::reverse(segments->begin(), segments->end());
}

}  // namespace

std::optional<SplitBehavior> SplitBehaviorFromName(std::string_view name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return std::nullopt;
}

absl::Status SplitPieces(const Search& search, SplitBehavior behavior, bool invert,
                         PreTokenizedText* text) {
  std::vector<TextRange> matches;
  std::vector<Segment> segments;
  const std::vector<TextRange> pieces = std::exchange(text->pieces, {});
  for (const TextRange& piece : pieces) {
    const auto content = std::string_view(text->text).substr(piece.begin, piece.size());
    RETURN_IF_ERROR(search(content, &matches));
    CoverWithSegments(piece.size(), matches, invert, &segments);
    JoinSegments(behavior, &segments);
    for (const auto& [range, is_match] : segments) {
      if (range.size() == 0 || (is_match && behavior == SplitBehavior::kRemoved)) continue;
      text->pieces.push_back({piece.begin + range.begin, piece.begin + range.end});
    }
  }
  const auto first_begin = [](const auto& ranges) { return ranges.empty() ? 0 : ranges[0].begin; };
  if (first_begin(text->pieces) != first_begin(pieces)) text->at_start = false;
  return absl::OkStatus();
}

Search SearchChars(bool (*is_match)(char32_t)) {
  return [is_match](std::string_view text, std::vector<TextRange>* matches) {
    matches->clear();
    ForEachChar(text, [&](char32_t c, size_t begin, size_t end) {
      if (is_match(c)) matches->push_back({begin, end});
    });
    return absl::OkStatus();
  };
}

}  // namespace strata::server
