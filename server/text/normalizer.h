#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/json_reader.h"

namespace strata::server {

// How long a text may become: a file whose steps let it grow without end must not exhaust memory.
// What grows most in earnest, NFKD of Arabic ligatures, is 11 times as long.
constexpr size_t MaxGrownBytes(size_t size) { return (size_t{1} << 20) + 32 * size; }

// INVALID_ARGUMENT when `size` is more than `max_size`.
absl::Status CheckTextSize(size_t size, size_t max_size);

// Rewrites a text before it is split: the field `normalizer` of a tokenizer.json.
// Immutable; any thread.
class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // INVALID_ARGUMENT when the text grows past `max_size`; its value is unspecified then.
  // REQUIRES: `*text` is valid UTF-8. It stays so.
  virtual absl::Status Apply(size_t max_size, std::string* text) const = 0;

  // NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents or Sequence; null where
  // `root` has no normalizer. INVALID_ARGUMENT names any other.
  static absl::StatusOr<std::unique_ptr<Normalizer>> FromJson(JsonReader root);
};

}  // namespace strata::server
