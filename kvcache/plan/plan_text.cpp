#include "kvcache/plan/plan_text.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace strata::kvcache {
namespace {

std::string Range(int32_t first, int32_t last) {
  return first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
}

// Heads [begin, end) whose sources are alike.
struct Group {
  size_t begin = 0;
  size_t end = 0;
};

// The longest group from `begin` on: one source layer, and source heads that are the readers' own,
// or run along with the readers, or are all the same.
Group GroupAt(std::span<const HeadRef> from, std::span<const HeadRef> same, size_t begin) {
  const auto extend = [&](auto alike) {
    size_t end = begin + 1;
    while (end < from.size() && from[end].layer == from[begin].layer && alike(end)) ++end;
    return end;
  };
  const bool own_head = from[begin].head == same[begin].head;
  if (own_head) {
    return {begin, extend([&](size_t i) { return from[i].head == same[i].head; })};
  }
  const auto other = [&](size_t i) { return from[i].head != same[i].head; };
  const size_t along = extend([&](size_t i) {
    return other(i) && from[i].head - from[begin].head == static_cast<int32_t>(i - begin);
  });
  if (along > begin + 1) return {begin, along};
  return {begin, extend([&](size_t i) { return other(i) && from[i].head == from[begin].head; })};
}

std::string DescribeGroup(int32_t layer, std::span<const HeadRef> from,
                          std::span<const HeadRef> same, Group group) {
  const HeadRef first = from[group.begin];
  const HeadRef last = from[group.end - 1];
  const bool same_head = first.head == same[group.begin].head;
  if (same_head && first.layer == layer) return " own";
  std::string text = absl::StrCat(" from layer ", first.layer);
  if (same_head) return text;
  return absl::StrCat(text, first.head == last.head ? " head " : " heads ",
                      Range(first.head, last.head));
}

// A list among other fields of a line needs brackets around its commas.
std::string Bracketed(std::string text) {
  return absl::StrContains(text, "heads") ? absl::StrCat("(", text, ")") : text;
}

}  // namespace

std::string DescribeHeads(std::span<const int32_t> heads) {
  std::string text;
  for (size_t begin = 0, end = 0; begin < heads.size(); begin = end) {
    end = begin + 1;
    while (end < heads.size() && heads[end] == heads[end - 1] + 1) ++end;
    absl::StrAppend(&text, begin == 0 ? "" : ", ", Range(heads[begin], heads[end - 1]));
  }
  return text;
}

std::string DescribeSources(int32_t layer, std::span<const HeadRef> from,
                            std::span<const HeadRef> same) {
  std::string text;
  for (size_t begin = 0; begin < from.size();) {
    const Group group = GroupAt(from, same, begin);
    const bool whole = group.begin == 0 && group.end == from.size();
    if (whole && from[0].head == same[0].head) {
      return from[0].layer == layer ? "own" : absl::StrCat(from[0].layer);
    }
    absl::StrAppend(&text, begin == 0 ? "heads " : ", ",
                    Range(static_cast<int32_t>(group.begin), static_cast<int32_t>(group.end) - 1),
                    DescribeGroup(layer, from, same, group));
    begin = group.end;
  }
  return text;
}

std::string DescribeMix(const SharingPlan& plan, int32_t layer) {
  if (plan.learnable_mix(layer)) return "learnable";
  const auto describe = [&](int32_t head) -> std::string {
    const std::optional<ValueMix>& mix = plan.mix(layer, head);
    return mix.has_value() ? absl::StrCat(mix->own, " own + ", mix->first, " first") : "";
  };
  const int32_t num_heads = plan.shape().num_kv_heads;
  std::string text;
  for (int32_t begin = 0, end = 0; begin < num_heads; begin = end) {
    end = begin + 1;
    while (end < num_heads && plan.mix(layer, end) == plan.mix(layer, begin)) ++end;
    if (end - begin == num_heads) return describe(0);
    if (!plan.mix(layer, begin).has_value()) continue;
    absl::StrAppend(&text, text.empty() ? "kv heads " : ", ", Range(begin, end - 1), " ",
                    describe(begin));
  }
  return text;
}

std::vector<std::string> SharingPlan::DescribeLayers() const {
  std::vector<std::string> lines;
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    std::vector<HeadRef> scores, keys, values, same_query, same_kv;
    for (int32_t head = 0; head < shape_.num_query_heads; ++head) {
      const HeadSources& from = sources(layer, head);
      scores.push_back(from.scores);
      keys.push_back(from.keys);
      values.push_back(from.values);
      same_query.push_back({layer, head});
      same_kv.push_back({layer, shape_.KvHeadOf(head)});
    }
    const std::string mix = DescribeMix(*this, layer);
    lines.push_back(absl::StrCat("layer ", layer, ": scores ",
                                 Bracketed(DescribeSources(layer, scores, same_query)), ", keys ",
                                 Bracketed(DescribeSources(layer, keys, same_kv)), ", values ",
                                 Bracketed(DescribeSources(layer, values, same_kv)),
                                 mix.empty() ? "" : ", mix ", Bracketed(mix)));
  }
  return lines;
}

}  // namespace strata::kvcache
