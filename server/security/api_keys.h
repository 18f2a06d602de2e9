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

// SHA-256 of a key. A key is 256 random bits, which nobody finds by trying, so that neither salt
// nor a slow hash, which guard what people think up, would add anything.
using KeyDigest = std::array<uint8_t, 32>;
KeyDigest DigestOf(std::string_view key);

// A line of the key file: "alice sha256:HEX requests_per_second=2.5 concurrent=4", the limits each
// only where there is one. Spaces separate; a line that begins with # says nothing.
struct KeyLine {
  std::string name;
  KeyDigest digest{};
  KeyLimits limits;
};
std::string KeyLineText(const KeyLine& line);
// INVALID_ARGUMENT "line N: what is wrong", never with what stands there: it might be a key.
absl::StatusOr<std::vector<KeyLine>> ParseKeyLines(const std::string& text);

// A key that has never been before: "strata_" and 64 hexadecimal digits.
absl::StatusOr<std::string> DrawKey();

// Who may ask. The file is read again when it changes; where that fails, the log says so and the
// keys before it stay. A name keeps its account, and what runs under it, for as long as it is
// there.
//
// Threads: every method from any thread.
class ApiKeys {
 public:
  // One line that names file and line where it cannot be used.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Open(const std::string& path);

  // "Bearer KEY" of a request's `authorization`. UNAUTHENTICATED in words. Takes the same time
  // whatever the key is, and wherever it stands among the others.
  absl::Status Check(std::string_view authorization) const;
  // The same, and a request of that key begins. Where the key is known *caller is set, also where
  // one of its limits refuses; then errors as KeyAccount::Enter.
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
