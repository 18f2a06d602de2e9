#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/base/mutex.h"

namespace strata::server {

// Limits on the requests of one key. 0: no limit.
struct KeyLimits {
  double requests_per_second = 0;  // as many, and at least 1, at once after a pause
  int32_t concurrent = 0;
};

// One name of the key file, and the requests that run under it. Threads: every method from any
// thread.
class KeyAccount {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit KeyAccount(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  // Sets limits for later requests; running ones go on.
  void SetLimits(const KeyLimits& limits);

  // Begins a request; Leave ends it. RESOURCE_EXHAUSTED "api_key: name and limit", with the time
  // until another try, if it is one too many.
  absl::Status Enter(Time now);
  void Leave();

 private:
  void Refill(Time now) STRATA_REQUIRES(mutex_);

  const std::string name_;
  Mutex mutex_;
  KeyLimits limits_ STRATA_GUARDED_BY(mutex_);
  int32_t running_ STRATA_GUARDED_BY(mutex_) = 0;
  double allowance_ STRATA_GUARDED_BY(mutex_) = 0;  // requests that may begin at once
  Time refilled_ STRATA_GUARDED_BY(mutex_);
};

// The account of a request, and its place among the account's requests: held until End, or until
// the last owner of the caller lets go.
class Caller {
 public:
  explicit Caller(std::shared_ptr<KeyAccount> account) : account_(std::move(account)) {}
  ~Caller() { End(); }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  const std::string& key() const { return account_->name(); }
  // Call once. Errors as KeyAccount::Enter.
  absl::Status Begin();
  // Ends the request, though its client may not know yet. Any thread.
  void End();

 private:
  const std::shared_ptr<KeyAccount> account_;
  Mutex mutex_;
  bool running_ STRATA_GUARDED_BY(mutex_) = false;
};

}  // namespace strata::server
