#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/json.h"

namespace strata::server {

// Longest text after normalization: a file whose steps let a text grow without end must not exhaust
// memory. The largest real growth, NFKD of Arabic ligatures, is 11 times.
constexpr size_t MaxGrownBytes(size_t size) { return (size_t{1} << 20) + 32 * size; }

// INVALID_ARGUMENT when `size` is more than `max_size`.
absl::Status CheckTextSize(size_t size, size_t max_size);

// Rewrites a text before it is split: the field `normalizer` of a tokenizer.json.
// Immutable; any thread.
class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // INVALID_ARGUMENT if the text grows past `max_size`; its value is then unspecified. REQUIRES:
  // `*text` is valid UTF-8. It stays so.
  virtual absl::Status Apply(size_t max_size, std::string* text) const = 0;

  // NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents or Sequence; null if
  // `root` has no normalizer. INVALID_ARGUMENT names any other.
  static absl::StatusOr<std::unique_ptr<Normalizer>> FromJson(JsonReader root);
};

}  // namespace strata::server
