#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/base/mutex.h"

namespace strata::server {

// What the requests of one key may come to. 0: as many as they like.
struct KeyLimits {
  double requests_per_second = 0;  // with so many at once, and at least 1, after a pause
  int32_t concurrent = 0;
};

// One name of the key file, and what runs under it. Threads: every method from any thread.
class KeyAccount {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit KeyAccount(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  // From now on; what runs goes on.
  void SetLimits(const KeyLimits& limits);

  // A request begins; Leave ends it. RESOURCE_EXHAUSTED "api_key: name and limit", with when to try
  // again, where it would be one too many.
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

// Whose request it is, and its place among those of the same key: held until End, or until the last
// who holds the caller lets go.
class Caller {
 public:
  explicit Caller(std::shared_ptr<KeyAccount> account) : account_(std::move(account)) {}
  ~Caller() { End(); }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  const std::string& key() const { return account_->name(); }
  // Once. Errors as KeyAccount::Enter.
  absl::Status Begin();
  // Any thread. The request has ended, though its client may still be told of it.
  void End();

 private:
  const std::shared_ptr<KeyAccount> account_;
  Mutex mutex_;
  bool running_ STRATA_GUARDED_BY(mutex_) = false;
};

}  // namespace strata::server
