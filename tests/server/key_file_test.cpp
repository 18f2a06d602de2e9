#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kvcache/base/error_details.h"
#include "server/cli/access.h"
#include "server/security/api_keys.h"
#include "server/security/tls.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::server::key_file_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(KeyFileTest, ALineSaysWhatItWasMadeOf) {
  const auto key = DrawKey();
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->size(), 7 + 64U);
  EXPECT_NE(*key, *DrawKey());
  const KeyLine line{.name = "a.B-c_9",
                     .digest = DigestOf(*key),
                     .limits = {.requests_per_second = 2.5, .concurrent = 4}};
  const auto lines = ParseKeyLines("# keys\n\n \t" + KeyLineText(line) + " \r\n");
  ASSERT_TRUE(lines.ok()) << lines.status();
  ASSERT_EQ(lines->size(), 1U);
  EXPECT_EQ(lines->front().name, line.name);
  EXPECT_EQ(lines->front().digest, line.digest);
  EXPECT_EQ(lines->front().limits.requests_per_second, 2.5);
  EXPECT_EQ(lines->front().limits.concurrent, 4);
}

// An editor or a shell on Windows may put a byte-order mark in front of a text. It would be a part
// of the first word, and OpenSSL would skip the certificate after it.
TEST(KeyFileTest, AByteOrderMarkIsCalledThat) {
  const testing::ScratchDir dir;
  const std::string path = (dir.path() / "keys").string();
  const std::string line = KeyLineText({.name = "a", .digest = DigestOf("abc"), .limits = {}});
  const std::string advice = "; save the file as UTF-8 without one";
  testing::WriteFile(path, line);
  EXPECT_TRUE(ApiKeys::Open(path).ok());
  for (const std::string& text : {line, "# keys\n" + line}) {
    testing::WriteFile(path, "\xEF\xBB\xBF" + text);
    EXPECT_EQ(ApiKeys::Open(path).status().message(),
              "api-keys: " + path + ": begins with a byte-order mark" + advice);
  }
  testing::WriteFile(path, "\xFF\xFE" + line);
  EXPECT_EQ(ApiKeys::Open(path).status().message(),
            "api-keys: " + path + ": begins with a byte-order mark of UTF-16" + advice);
  testing::WriteFile(path, "\xEF\xBB\xBFstrata_1");
  AccessOptions access;
  access.api_key_file = path;
  EXPECT_EQ(Access::Open(access).status().message(),
            "api-key-file: " + path + ": begins with a byte-order mark" + advice);
  access = {};
  access.tls_ca = path;
  EXPECT_EQ(Access::Open(access).status().message(),
            "tls-ca: " + path + ": begins with a byte-order mark" + advice);
  EXPECT_EQ(TlsIdentity::Load({.cert = path, .key = path, .client_ca = {}}).status().message(),
            "tls-cert: " + path + ": begins with a byte-order mark" + advice);
}

// A standard digest, so that files made by other programs fit.
TEST(KeyFileTest, TheDigestIsSha256) {
  EXPECT_EQ(KeyLineText({.name = "a", .digest = DigestOf("abc"), .limits = {}}),
            "a sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// The keys of a file with these lines.
std::unique_ptr<ApiKeys> OpenKeys(const std::vector<KeyLine>& lines) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / absl::StrCat("strata_key_file_test.", getpid());
  std::ofstream file(path);
  for (const KeyLine& line : lines) file << KeyLineText(line) << "\n";
  file.close();
  auto keys = ApiKeys::Open(path);
  EXPECT_TRUE(keys.ok()) << keys.status();
  std::filesystem::remove(path);
  return keys.ok() ? *std::move(keys) : nullptr;
}

// The name of the key in `authorization`; empty: refused.
std::string NameOf(const ApiKeys& keys, const std::string& authorization) {
  std::shared_ptr<Caller> caller;
  const absl::Status status = keys.Admit(authorization, &caller);
  EXPECT_EQ(keys.Check(authorization).code(), status.code());
  EXPECT_EQ(status.ok(), caller != nullptr);
  EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kUnauthenticated) << status;
  return caller != nullptr ? caller->key() : "";
}

// Keys one step away from `key`.
std::vector<std::string> NearKeys(const std::string& key) {
  std::vector<std::string> near = {key + key,
                                   key + " ",
                                   " " + key,
                                   key + '\0',
                                   key + "0",
                                   "",
                                   absl::AsciiStrToUpper(key),
                                   std::string(key.rbegin(), key.rend())};
  for (size_t i = 0; i < key.size(); ++i) {
    near.push_back(key.substr(0, i));
    near.push_back(key.substr(i + 1));
    near.push_back(key.substr(0, i) + key.substr(i + 1));
    for (int bit = 0; bit < 8; ++bit) {
      near.push_back(key);
      near.back()[i] = static_cast<char>(near.back()[i] ^ (1 << bit));
    }
    if (i == 0 || key[i] == key[i - 1]) continue;
    near.push_back(key);
    std::swap(near.back()[i], near.back()[i - 1]);
  }
  return near;
}

TEST(ApiKeysTest, OfThousandsOfKeysOnlyTheRightOnesAreKnown) {
  std::vector<std::string> right;
  std::vector<KeyLine> lines;
  for (int i = 0; i < 8; ++i) {
    right.push_back(*DrawKey());
    lines.push_back(
        {.name = absl::StrCat("name", i), .digest = DigestOf(right.back()), .limits = {}});
  }
  const std::unique_ptr<ApiKeys> keys = OpenKeys(lines);
  ASSERT_NE(keys, nullptr);
  int wrong = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    EXPECT_EQ(NameOf(*keys, "Bearer " + right[i]), lines[i].name);
    EXPECT_EQ(NameOf(*keys, "bEARER " + right[i]), lines[i].name);
    for (const char* scheme : {"", "Bearer", "Basic ", "Bearer\t", "Bearer  ", " Bearer "}) {
      EXPECT_EQ(NameOf(*keys, scheme + right[i]), "") << scheme;
    }
    // The file's text is no key.
    const std::string line = KeyLineText(lines[i]);
    EXPECT_EQ(NameOf(*keys, "Bearer " + line.substr(line.find(':') + 1)), "");
    for (const std::string& key : NearKeys(right[i])) {
      ASSERT_EQ(NameOf(*keys, "Bearer " + key), "") << ++wrong << " keys were refused before";
      ++wrong;
    }
  }
  std::mt19937 random(7);
  for (int i = 0; i < 10000; ++i, ++wrong) {
    std::string key = "strata_";
    while (key.size() < right[0].size()) key += "0123456789abcdef"[random() % 16];
    ASSERT_EQ(NameOf(*keys, "Bearer " + key), "") << wrong << " keys were refused before";
  }
  EXPECT_GT(wrong, 14000);
}

// Digests that agree in all bits but one cannot be found by trying keys, but they can be written to
// a file.
TEST(ApiKeysTest, EveryBitOfADigestCounts) {
  const std::string key = *DrawKey();
  const KeyDigest digest = DigestOf(key);
  std::vector<KeyLine> lines;
  for (size_t bit = 0; bit < 8 * digest.size(); ++bit) {
    lines.push_back({.name = absl::StrCat("bit", bit), .digest = digest, .limits = {}});
    lines.back().digest[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  const std::unique_ptr<ApiKeys> others = OpenKeys(lines);
  ASSERT_NE(others, nullptr);
  EXPECT_EQ(NameOf(*others, "Bearer " + key), "");
  lines.insert(lines.begin() + 100, {.name = "right", .digest = digest, .limits = {}});
  const std::unique_ptr<ApiKeys> with_it = OpenKeys(lines);
  ASSERT_NE(with_it, nullptr);
  EXPECT_EQ(NameOf(*with_it, "Bearer " + key), "right");
}

TEST(KeyAccountTest, ARateRefillsAndNeverHoldsMoreThanASecond) {
  KeyAccount account("a");
  account.SetLimits({.requests_per_second = 2});
  KeyAccount::Time now = KeyAccount::Time::clock::now();
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_TRUE(account.Enter(now).ok());
  const absl::Status refused = account.Enter(now);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(), "api_key: a may make 2 requests a second");
  EXPECT_EQ(RetryAfterOf(refused), milliseconds(500));
  now += milliseconds(250);
  EXPECT_EQ(RetryAfterOf(account.Enter(now)), milliseconds(250));
  now += milliseconds(251);
  EXPECT_TRUE(account.Enter(now).ok());
  now += seconds(3600);
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_FALSE(account.Enter(now).ok());
  account.SetLimits({});
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(account.Enter(now).ok());
}

// Otherwise rereading the file, or changing a line of it, would give callers a new allowance.
TEST(KeyAccountTest, LimitsThatAreSetAgainGiveNoNewAllowance) {
  KeyAccount account("a");
  account.SetLimits({.requests_per_second = 2});
  KeyAccount::Time now = KeyAccount::Time::clock::now();
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_TRUE(account.Enter(now).ok());
  account.SetLimits({.requests_per_second = 2});
  EXPECT_FALSE(account.Enter(now).ok());
  account.SetLimits({.requests_per_second = 100});
  EXPECT_FALSE(account.Enter(now).ok());
  now += seconds(1);
  EXPECT_TRUE(account.Enter(now).ok());  // leaves 99
  account.SetLimits({.requests_per_second = 1});
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_FALSE(account.Enter(now).ok());
}

TEST(KeyAccountTest, PlacesComeBackOnce) {
  const auto account = std::make_shared<KeyAccount>("a");
  account->SetLimits({.concurrent = 2});
  Caller first(account);
  Caller second(account);
  EXPECT_TRUE(first.Begin().ok());
  EXPECT_TRUE(second.Begin().ok());
  Caller third(account);
  EXPECT_EQ(third.Begin().message(), "api_key: a has 2 requests running, which is its limit");
  third.End();  // it had no place
  EXPECT_FALSE(Caller(account).Begin().ok());
  first.End();
  first.End();
  { EXPECT_TRUE(Caller(account).Begin().ok()); }
  Caller fourth(account);
  EXPECT_TRUE(fourth.Begin().ok());
  EXPECT_FALSE(Caller(account).Begin().ok());
}

}  // namespace
}  // namespace strata::server::key_file_test
