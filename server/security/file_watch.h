#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"

namespace strata::server {

// Stamps that show whether files have been replaced or written to. A secret that is mounted in a
// container changes by its symbolic link, which is followed.
class FileStamps {
 public:
  explicit FileStamps(std::vector<std::string> paths);

  // Whether the files differ from the last call; the next call compares with their present state.
  bool Changed();

 private:
  // Device, inode, size, time of change in nanoseconds; empty if there is no file.
  using Stamp = std::vector<int64_t>;
  static Stamp StampOf(const std::string& path);

  std::vector<std::string> paths_;
  std::vector<Stamp> stamps_;
};

// Looks at files once a second, on a thread of its own.
class FileWatch {
 public:
  // `stamps` are older than the owner's own reading of the files, so that no change is missed.
  // `on_change` is called on the watch's thread.
  FileWatch(FileStamps stamps, std::function<void()> on_change);
  ~FileWatch();

 private:
  void Run();
  bool Wait();

  FileStamps stamps_;  // the thread's
  const std::function<void()> on_change_;
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when all the rest is made
};

}  // namespace strata::server
