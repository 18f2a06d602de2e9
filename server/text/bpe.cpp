#include "server/text/bpe.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "kvcache/base/errors.h"
#include "server/base/string_util.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

using nlohmann::json;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The two halves of "a b" or ["a", "b"].
std::optional<std::pair<std::string_view, std::string_view>> ReadPair(const json& merge) {
  if (const auto* line = merge.get_ptr<const std::string*>()) {
    const std::string_view text = *line;
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return std::nullopt;
    }
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (!merge.is_array() || merge.size() != 2) return std::nullopt;
  const auto* left = merge[0].get_ptr<const std::string*>();
  const auto* right = merge[1].get_ptr<const std::string*>();
  if (left == nullptr || right == nullptr) return std::nullopt;
  return std::pair<std::string_view, std::string_view>(*left, *right);
}

}  // namespace

absl::StatusOr<Bpe> Bpe::FromJson(JsonReader model) {
  Bpe bpe;
  RETURN_IF_ERROR(bpe.ReadOptions(model));
  RETURN_IF_ERROR(bpe.ReadVocabulary(model));
  RETURN_IF_ERROR(bpe.ReadMerges(model));
  return bpe;
}

absl::Status Bpe::ReadOptions(JsonReader model) {
  const std::string type = model.String("type", "BPE");
  if (model.ok() && type != "BPE") return model.FailExpected("type", "\"BPE\"");
  const json& dropout = model.Value("dropout");
  const bool no_dropout =
      dropout.is_null() || (dropout.is_number() && dropout.get<double>() == 0.0);
  if (!no_dropout) model.FailExpected("dropout", "none (it makes encoding random)");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.String(affix, "").empty()) model.FailExpected(affix, "none (it is not supported)");
  }
  if (model.Has("unk_token")) unknown_token_ = model.String("unk_token");
  fuse_unknown_ = model.Bool("fuse_unk", false);
  byte_fallback_ = model.Bool("byte_fallback", false);
  ignore_merges_ = model.Bool("ignore_merges", false);
  return model.status();
}

absl::Status Bpe::ReadVocabulary(JsonReader model) {
  JsonReader entries = model.Object("vocab");
  if (!model.ok()) return model.status();
  const json& vocabulary = model.Value("vocab");
  absl::flat_hash_set<int32_t> ids;
  vocabulary_.reserve(vocabulary.size());
  ids.reserve(vocabulary.size());
  for (auto it = vocabulary.begin(); it != vocabulary.end(); ++it) {
    // A token may be empty, as no field's name may.
    const auto id = static_cast<int32_t>(entries.Member(it.key()).Integer("", 0, kMaxTokenId));
    if (!model.ok()) return model.status();
    if (!ids.insert(id).second) {
      return entries.Fail(it.key(), Concat("id ", id, " belongs to another token"));
    }
    vocabulary_.emplace(it.key(), id);
  }
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] = Find(absl::StrFormat("<0x%02X>", byte));
  }
  if (unknown_token_) unknown_id_ = Find(*unknown_token_);
  return absl::OkStatus();
}

absl::Status Bpe::ReadMerges(JsonReader model) {
  const json& merges = model.Value("merges");
  if (!merges.is_array()) return model.FailExpected("merges", "an array");
  merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto* line = merges[i].get_ptr<const std::string*>();
    if (line != nullptr && line->starts_with("#version")) continue;
    const auto pair = ReadPair(merges[i]);
    const absl::Status status =
        pair ? AddMerge(pair->first, pair->second, static_cast<int32_t>(i))
             : absl::InvalidArgumentError(
                   Concat("expected \"a b\" or [\"a\", \"b\"], got ", DescribeJson(merges[i])));
    if (!status.ok()) return model.Fail(Concat("merges[", i, "]"), std::string(status.message()));
  }
  return absl::OkStatus();
}

absl::Status Bpe::AddMerge(std::string_view left, std::string_view right, int32_t rank) {
  const std::string merged = Concat(left, right);
  for (const std::string_view token : {left, right, std::string_view(merged)}) {
    if (!Find(token)) {
      return absl::InvalidArgumentError(
          Concat("token ", DescribeJson(json(token)), " is not in the vocabulary"));
    }
  }
  // If a pair is listed twice, the last rank counts.
  merges_.insert_or_assign(PairKey(*Find(left), *Find(right)), Merge{rank, *Find(merged)});
  return absl::OkStatus();
}

std::optional<int32_t> Bpe::Find(std::string_view token) const {
  const auto it = vocabulary_.find(token);
  return it == vocabulary_.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

absl::Status Bpe::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (word.empty()) return absl::OkStatus();
  if (ignore_merges_) {
    if (const std::optional<int32_t> id = Find(word)) {
      ids->push_back(*id);
      return absl::OkStatus();
    }
  }
  RETURN_IF_ERROR(Spell(word, scratch));
  Join(scratch);
  for (const Scratch::Symbol& symbol : scratch->symbols_) {
    if (symbol.alive) ids->push_back(symbol.id);
  }
  return absl::OkStatus();
}

// Fills scratch->symbols_ with the word's characters. An unknown character is held back while it
// may still fuse with the next; as in the reference implementation byte tokens overtake it.
absl::Status Bpe::Spell(std::string_view word, Scratch* scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch->symbols_;
  symbols.clear();
  const auto add = [&](int32_t id) { symbols.push_back({id, 0, 0, true}); };
  bool unknown_waits = false;
  bool unknown_missing = false;
  ForEachChar(word, [&](char32_t, size_t begin, size_t end) {
    const std::string_view character = word.substr(begin, end - begin);
    if (const std::optional<int32_t> id = Find(character)) {
      if (unknown_waits) add(*unknown_id_);
      unknown_waits = false;
      add(*id);
    } else if (!SpellBytes(character, scratch) && unknown_token_) {
      if (!unknown_id_) {
        unknown_missing = true;
        return;
      }
      if (unknown_waits && !fuse_unknown_) add(*unknown_id_);
      unknown_waits = true;
    }
  });
  if (unknown_missing) {
    return absl::FailedPreconditionError(
        Concat("the text has a character outside the vocabulary, and so is model.unk_token ",
               DescribeJson(json(*unknown_token_))));
  }
  if (unknown_waits) add(*unknown_id_);

  const int32_t count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)].previous = i - 1;
    symbols[static_cast<size_t>(i)].next = i + 1 < count ? i + 1 : -1;
  }
  return absl::OkStatus();
}

bool Bpe::SpellBytes(std::string_view character, Scratch* scratch) const {
  if (!byte_fallback_) return false;
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
  if (!std::all_of(character.begin(), character.end(),
                   [&](char byte) { return id_of(byte).has_value(); })) {
    return false;
  }
  for (const char byte : character) scratch->symbols_.push_back({*id_of(byte), 0, 0, true});
  return true;
}

// Candidates are a heap, lowest rank first and leftmost among equals. A candidate whose symbols
// have changed since is dropped when it comes up.
void Bpe::Join(Scratch* scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch->symbols_;
  const auto at = [&](int32_t i) -> Scratch::Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto after = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return std::pair(a.rank, a.left) > std::pair(b.rank, b.left);
  };
  std::vector<Scratch::Candidate>& queue = scratch->queue_;
  queue.clear();
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) PushCandidate(i, scratch);
  std::make_heap(queue.begin(), queue.end(), after);

  const auto push = [&](int32_t left) {
    const size_t size = queue.size();
    PushCandidate(left, scratch);
    if (queue.size() > size) std::push_heap(queue.begin(), queue.end(), after);
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), after);
    const Scratch::Candidate top = queue.back();
    queue.pop_back();
    Scratch::Symbol& left = at(top.left);
    if (!left.alive || left.next < 0) continue;
    Scratch::Symbol& right = at(left.next);
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->merged_id != top.merged_id) continue;

    left.id = top.merged_id;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) at(left.next).previous = top.left;
    if (left.previous >= 0) push(left.previous);
    if (left.next >= 0) push(top.left);
  }
}

// Appends the merge of symbol `left` and its right neighbour, if there is one, without regard to
// the heap's order. REQUIRES: the neighbour exists.
void Bpe::PushCandidate(int32_t left, Scratch* scratch) const {
  const Scratch::Symbol& symbol = scratch->symbols_[static_cast<size_t>(left)];
  const Scratch::Symbol& right = scratch->symbols_[static_cast<size_t>(symbol.next)];
  if (const Merge* merge = FindMerge(symbol.id, right.id)) {
    scratch->queue_.push_back({merge->rank, left, merge->merged_id});
  }
}

}  // namespace strata::server
