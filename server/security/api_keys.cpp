#include "server/security/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvcache/base/error_details.h"
#include "server/base/read_file.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr char kScheme[] = "bearer ";
constexpr char kDigestPrefix[] = "sha256:";

template <size_t size>
std::string Hex(const std::array<uint8_t, size>& bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), size));
}

bool IsName(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

bool ParseDigest(const std::string& text, KeyDigest* digest) {
  const std::string hex = text.substr(std::min(text.size(), sizeof(kDigestPrefix) - 1));
  const bool ok =
      absl::StartsWith(text, kDigestPrefix) && hex.size() == 2 * digest->size() &&
      std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (!ok) return false;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), digest->begin());
  return true;
}

bool ParseLimit(const std::string& text, KeyLimits* limits) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
  if (parts.size() != 2) return false;
  if (parts[0] == "requests_per_second") {
    return absl::SimpleAtod(parts[1], &limits->requests_per_second) &&
           std::isfinite(limits->requests_per_second) && limits->requests_per_second > 0;
  }
  return parts[0] == "concurrent" && absl::SimpleAtoi(parts[1], &limits->concurrent) &&
         limits->concurrent > 0;
}

// Parses a line. Returns its error; empty if there is none.
std::string ParseKeyLine(const std::vector<std::string>& words, KeyLine* line) {
  if (!IsName(words[0])) {
    return absl::StrCat("the name is not 1 to ", kMaxNameBytes, " letters, digits, - _ or .");
  }
  line->name = words[0];
  if (words.size() < 2 || !ParseDigest(words[1], &line->digest)) {
    return "the second word is not sha256: and 64 hexadecimal digits";
  }
  for (size_t i = 2; i < words.size(); ++i) {
    if (ParseLimit(words[i], &line->limits)) continue;
    return absl::StrCat("word ", i + 1, " is not requests_per_second=NUMBER or concurrent=COUNT, ",
                        "above 0");
  }
  return "";
}

}  // namespace

KeyDigest DigestOf(std::string_view key) {
  KeyDigest digest;
  SHA256(reinterpret_cast<const uint8_t*>(key.data()), key.size(), digest.data());
  return digest;
}

std::string KeyLineText(const KeyLine& line) {
  std::string text = absl::StrCat(line.name, " ", kDigestPrefix, Hex(line.digest));
  if (line.limits.requests_per_second != 0) {
    absl::StrAppend(&text, " requests_per_second=", line.limits.requests_per_second);
  }
  if (line.limits.concurrent != 0) absl::StrAppend(&text, " concurrent=", line.limits.concurrent);
  return text;
}

absl::StatusOr<std::vector<KeyLine>> ParseKeyLines(const std::string& text) {
  std::vector<KeyLine> lines;
  std::set<std::string> names;
  std::set<KeyDigest> digests;
  int number = 0;
  for (const auto line_text : absl::StrSplit(text, '\n')) {
    ++number;
    const std::vector<std::string> words =
        absl::StrSplit(line_text, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0][0] == '#') continue;
    KeyLine line;
    std::string wrong = ParseKeyLine(words, &line);
    if (wrong.empty() && !names.insert(line.name).second) wrong = "the name stands there twice";
    if (wrong.empty() && !digests.insert(line.digest).second) wrong = "the key stands there twice";
    if (!wrong.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", wrong));
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

absl::StatusOr<std::string> DrawKey() {
  std::array<uint8_t, 32> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    return absl::UnavailableError("the system gives no random numbers");
  }
  return absl::StrCat("strata_", Hex(bytes));
}

namespace {

absl::StatusOr<std::vector<KeyLine>> ReadKeyFile(const std::string& path) {
  ASSIGN_OR_RETURN(const auto text, ReadCredentials("api-keys", path));
  auto lines = ParseKeyLines(text);
  if (lines.ok()) return lines;
  return absl::InvalidArgumentError(
      absl::StrCat("api-keys: ", path, " ", std::string(lines.status().message())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Open(const std::string& path) {
  FileStamps stamps({path});
  ASSIGN_OR_RETURN(const auto lines, ReadKeyFile(path));
  if (lines.empty()) spdlog::warn("api-keys: {} holds no keys; nobody may ask", path);
  return std::unique_ptr<ApiKeys>(new ApiKeys(path, std::move(stamps), lines));
}

ApiKeys::ApiKeys(std::string path, FileStamps stamps, const std::vector<KeyLine>& lines)
    : path_(std::move(path)), watch_(std::move(stamps), [this] { Reload(); }) {
  Take(lines);
}

void ApiKeys::Take(const std::vector<KeyLine>& lines) {
  const MutexLock lock(mutex_);
  std::map<std::string, std::shared_ptr<KeyAccount>> accounts;
  for (const Entry& entry : entries_) accounts.emplace(entry.account->name(), entry.account);
  entries_.clear();
  for (const KeyLine& line : lines) {
    std::shared_ptr<KeyAccount>& account = accounts[line.name];
    if (!account) account = std::make_shared<KeyAccount>(line.name);
    account->SetLimits(line.limits);
    entries_.push_back({line.digest, account});
  }
}

void ApiKeys::Reload() {
  const auto lines = ReadKeyFile(path_);
  if (!lines.ok()) {
    spdlog::warn("{}; the keys before it stay in use", std::string(lines.status().message()));
    return;
  }
  Take(*lines);
  spdlog::info("api-keys: the {} keys of {} are in use from now on", lines->size(), path_);
}

absl::StatusOr<std::shared_ptr<KeyAccount>> ApiKeys::Find(std::string_view authorization) const {
  constexpr size_t kSchemeSize = sizeof(kScheme) - 1;
  if (authorization.size() <= kSchemeSize ||
      !absl::EqualsIgnoreCase(absl::string_view(authorization.data(), kSchemeSize), kScheme)) {
    return InField("api_key", absl::UnauthenticatedError(
                                  "none given; send authorization: Bearer KEY with the request"));
  }
  const KeyDigest digest = DigestOf(authorization.substr(kSchemeSize));
  std::shared_ptr<KeyAccount> found;
  const MutexLock lock(mutex_);
  for (const Entry& entry : entries_) {
    const bool same = CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0;
    if (same) found = entry.account;
  }
  if (!found) {
    return InField("api_key", absl::UnauthenticatedError("not one that is known here"));
  }
  return found;
}

absl::Status ApiKeys::Check(std::string_view authorization) const {
  return Find(authorization).status();
}

absl::Status ApiKeys::Admit(std::string_view authorization, std::shared_ptr<Caller>* caller) const {
  ASSIGN_OR_RETURN(auto account, Find(authorization));
  *caller = std::make_shared<Caller>(std::move(account));
  return (*caller)->Begin();
}

}  // namespace strata::server
