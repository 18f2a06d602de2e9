#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "server/security/file_watch.h"
#include "server/security/key_account.h"

namespace strata::server {

// SHA-256 of a key. A key is 256 random bits, impossible to find by trying, so neither a salt nor a
// slow hash is needed; these protect passwords that people choose.
using KeyDigest = std::array<uint8_t, 32>;
KeyDigest DigestOf(std::string_view key);

// A line of the key file: "alice sha256:HEX requests_per_second=2.5 concurrent=4"; each limit is
// optional. Spaces separate words; a line that begins with # is a comment.
struct KeyLine {
  std::string name;
  KeyDigest digest{};
  KeyLimits limits;
};
std::string KeyLineText(const KeyLine& line);
// INVALID_ARGUMENT "line N: the error", never with the line's text: it might be a key.
absl::StatusOr<std::vector<KeyLine>> ParseKeyLines(const std::string& text);

// A new random key: "strata_" and 64 hexadecimal digits.
absl::StatusOr<std::string> DrawKey();

// The keys of callers. The file is read again when it changes; if that fails, the log says so and
// the earlier keys stay. A name keeps its account, and the requests running under it, as long as
// the name is in the file.
//
// Threads: every method from any thread.
class ApiKeys {
 public:
  // One line naming file and line if the file cannot be used.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Open(const std::string& path);

  // Checks "Bearer KEY" of a request's `authorization`. UNAUTHENTICATED in words. Takes the same
  // time for any key, and for any place among the others.
  absl::Status Check(std::string_view authorization) const;
  // The same, and begins a request of that key. *caller is set if the key is known, even if one of
  // its limits refuses; errors are then as KeyAccount::Enter.
  absl::Status Admit(std::string_view authorization, std::shared_ptr<Caller>* caller) const;

 private:
  struct Entry {
    KeyDigest digest;
    std::shared_ptr<KeyAccount> account;
  };
  ApiKeys(std::string path, FileStamps stamps, const std::vector<KeyLine>& lines);
  void Take(const std::vector<KeyLine>& lines);
  void Reload();
  absl::StatusOr<std::shared_ptr<KeyAccount>> Find(std::string_view authorization) const;

  const std::string path_;
  mutable Mutex mutex_;
  std::vector<Entry> entries_ STRATA_GUARDED_BY(mutex_);
  FileWatch watch_;  // last: calls Reload
};

}  // namespace strata::server
