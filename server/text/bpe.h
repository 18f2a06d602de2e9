#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/json.h"
#include "server/base/string_util.h"

namespace strata::server {

// Higher ids are refused everywhere, so that a table by id stays small.
inline constexpr int32_t kMaxTokenId = 16 * 1024 * 1024 - 1;

using StringIdMap = absl::flat_hash_map<std::string, int32_t, StringHash, StringEqual>;

// Byte-pair encoding: a word becomes one symbol for each character, then neighbours are joined,
// always the pair whose merge comes first in the list of merges, until none is left. n log n in the
// word's length. Immutable; any thread.
class Bpe {
 public:
  // Buffers that encoding reuses from word to word. One thread.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      int32_t id;
      int32_t previous;  // index of the living neighbour, or -1
      int32_t next;
      bool alive;
    };
    struct Candidate {
      int32_t rank;
      int32_t left;  // index of the left symbol
      int32_t merged_id;
    };
    std::vector<Symbol> symbols_;
    std::vector<Candidate> queue_;
  };

  // Reads the object `model` of a tokenizer.json.
  static absl::StatusOr<Bpe> FromJson(JsonReader model);

  // Appends the ids of `word`. FAILED_PRECONDITION if a character needs the unknown token and the
  // vocabulary lacks it. REQUIRES: valid UTF-8 of less than 2 GiB.
  absl::Status Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

  std::optional<int32_t> Find(std::string_view token) const;

  const StringIdMap& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    int32_t rank;
    int32_t merged_id;
  };

  Bpe() = default;
  absl::Status ReadOptions(JsonReader model);
  absl::Status ReadVocabulary(JsonReader model);
  absl::Status ReadMerges(JsonReader model);
  absl::Status AddMerge(std::string_view left, std::string_view right, int32_t rank);

  const Merge* FindMerge(int32_t left, int32_t right) const;
  absl::Status Spell(std::string_view word, Scratch* scratch) const;
  bool SpellBytes(std::string_view character, Scratch* scratch) const;
  void Join(Scratch* scratch) const;
  void PushCandidate(int32_t left, Scratch* scratch) const;

  StringIdMap vocabulary_;
  absl::flat_hash_map<uint64_t, Merge> merges_;            // by left id << 32 | right id
  std::array<std::optional<int32_t>, 256> byte_ids_ = {};  // of "<0x41>" and the like
  std::optional<std::string> unknown_token_;
  std::optional<int32_t> unknown_id_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace strata::server
