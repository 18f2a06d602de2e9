#include "server/security/key_account.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/base/error_details.h"

namespace strata::server {
namespace {

using Seconds = std::chrono::duration<double>;

// Hint for the time until a running request may have ended.
constexpr std::chrono::milliseconds kSoon{1000};

double Most(const KeyLimits& limits) { return std::max(1.0, limits.requests_per_second); }

}  // namespace

void KeyAccount::SetLimits(const KeyLimits& limits) {
  const MutexLock lock(mutex_);
  const bool was_limited = limits_.requests_per_second > 0;
  limits_ = limits;
  allowance_ = was_limited ? std::min(allowance_, Most(limits)) : Most(limits);
}

void KeyAccount::Refill(Time now) {
  const double seconds = Seconds(now - std::exchange(refilled_, std::max(refilled_, now))).count();
  allowance_ =
      std::min(Most(limits_), allowance_ + std::max(0.0, seconds) * limits_.requests_per_second);
}

absl::Status KeyAccount::Enter(Time now) {
  const MutexLock lock(mutex_);
  if (limits_.concurrent > 0 && running_ >= limits_.concurrent) {
    return WithRetryAfter(
        InField("api_key", absl::ResourceExhaustedError(absl::StrCat(
                               name_, " has ", running_, " requests running, which is its limit"))),
        kSoon);
  }
  if (limits_.requests_per_second > 0) {
    Refill(now);
    if (allowance_ < 1) {
      return WithRetryAfter(InField("api_key", absl::ResourceExhaustedError(absl::StrCat(
                                                   name_, " may make ", limits_.requests_per_second,
                                                   " requests a second"))),
                            std::chrono::ceil<std::chrono::milliseconds>(
                                Seconds((1 - allowance_) / limits_.requests_per_second)));
    }
    allowance_ -= 1;
  }
  ++running_;
  return absl::OkStatus();
}

void KeyAccount::Leave() {
  const MutexLock lock(mutex_);
  --running_;
}

absl::Status Caller::Begin() {
  const MutexLock lock(mutex_);
  absl::Status status = account_->Enter(KeyAccount::Time::clock::now());
  running_ = status.ok();
  return status;
}

void Caller::End() {
  const MutexLock lock(mutex_);
  if (std::exchange(running_, false)) account_->Leave();
}

}  // namespace strata::server
