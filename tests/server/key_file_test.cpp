#include <chrono>
#include <string>

#include "engine/retry_after.h"
#include "gtest/gtest.h"
#include "server/access.h"
#include "server/api_keys.h"
#include "server/tls.h"
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

// What an editor or a shell on Windows puts in front of a text would be a part of its first word,
// and OpenSSL passes over the certificate that follows it.
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

// A digest that others know, so that files made by other programs fit.
TEST(KeyFileTest, TheDigestIsSha256) {
  EXPECT_EQ(KeyLineText({.name = "a", .digest = DigestOf("abc"), .limits = {}}),
            "a sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
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
  EXPECT_EQ(engine::RetryAfterOf(refused), milliseconds(500));
  now += milliseconds(250);
  EXPECT_EQ(engine::RetryAfterOf(account.Enter(now)), milliseconds(250));
  now += milliseconds(251);
  EXPECT_TRUE(account.Enter(now).ok());
  now += seconds(3600);
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_TRUE(account.Enter(now).ok());
  EXPECT_FALSE(account.Enter(now).ok());
  account.SetLimits({});
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(account.Enter(now).ok());
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
  third.End();  // it had none
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
