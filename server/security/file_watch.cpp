#include "server/security/file_watch.h"

#include <sys/stat.h>

#include <chrono>
#include <utility>

namespace strata::server {
namespace {

constexpr std::chrono::seconds kLookInterval{1};

}  // namespace

FileStamps::FileStamps(std::vector<std::string> paths) : paths_(std::move(paths)) { Changed(); }

FileStamps::Stamp FileStamps::StampOf(const std::string& path) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0) return {};
  constexpr int64_t kNanoseconds = 1'000'000'000;
  return {static_cast<int64_t>(file.st_dev), static_cast<int64_t>(file.st_ino), file.st_size,
          file.st_ctim.tv_sec * kNanoseconds + file.st_ctim.tv_nsec};
}

bool FileStamps::Changed() {
  std::vector<Stamp> stamps;
  for (const std::string& path : paths_) stamps.push_back(StampOf(path));
  return std::exchange(stamps_, stamps) != stamps;
}

FileWatch::FileWatch(FileStamps stamps, std::function<void()> on_change)
    : stamps_(std::move(stamps)), on_change_(std::move(on_change)), thread_([this] { Run(); }) {}

FileWatch::~FileWatch() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyOne();
  thread_.join();
}

void FileWatch::Run() {
  while (Wait()) {
    if (stamps_.Changed()) on_change_();
  }
}

// Waits for the interval; false when the watch ends.
bool FileWatch::Wait() {
  const auto end = std::chrono::steady_clock::now() + kLookInterval;
  const MutexLock lock(mutex_);
  while (!stopping_) {
    if (!wake_.WaitUntil(mutex_, end)) break;
  }
  return !stopping_;
}

}  // namespace strata::server
