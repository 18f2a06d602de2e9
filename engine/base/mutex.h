#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

// A mutex whose use clang checks when it compiles (-Wthread-safety). Declarations name the mutex
// that guards a member, or that a function needs held; a use without the lock is an error. Other
// compilers ignore these attributes. The only lock of engine and server; the folders below have
// none. tests/thread_safety_test.sh runs clang.
#ifdef __clang__
#define STRATA_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define STRATA_THREAD_ATTRIBUTE(x)
#endif
// Marks a member: read and written only with the mutex held.
#define STRATA_GUARDED_BY(mutex) STRATA_THREAD_ATTRIBUTE(guarded_by(mutex))
// Mark a function: the caller must hold the mutex, or must not hold it.
#define STRATA_REQUIRES(mutex) STRATA_THREAD_ATTRIBUTE(requires_capability(mutex))
#define STRATA_EXCLUDES(mutex) STRATA_THREAD_ATTRIBUTE(locks_excluded(mutex))

namespace strata {

class CondVar;

class STRATA_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  void Lock() STRATA_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
  void Unlock() STRATA_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a mutex for the life of the object, or until Unlock.
class STRATA_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) STRATA_THREAD_ATTRIBUTE(acquire_capability(mutex))
      : mutex_(mutex) {
    mutex_.Lock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() STRATA_THREAD_ATTRIBUTE(release_capability()) {
    if (held_) mutex_.Unlock();
  }
  void Unlock() STRATA_THREAD_ATTRIBUTE(release_capability()) {
    mutex_.Unlock();
    held_ = false;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

// Waits for a change of data that a mutex guards. Always call it in a loop over the condition, as
// waits may end for no reason.
//
//   MutexLock lock(mutex_);
//   while (!ready_) changed_.Wait(mutex_);
class CondVar {
 public:
  using Time = std::chrono::steady_clock::time_point;

  void Wait(Mutex& mutex) STRATA_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False once `limit` has passed.
  bool WaitUntil(Mutex& mutex, Time limit) STRATA_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const std::cv_status status = condition_.wait_until(lock, limit);
    lock.release();
    return status == std::cv_status::no_timeout;
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace strata
