#include "server/blocking_generation.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace strata::server {

absl::StatusOr<std::unique_ptr<BlockingGeneration>> BlockingGeneration::Start(
    const GenerationContext& context, GenerationRequest request) {
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("eventfd: ", std::generic_category().message(errno)));
  }
  std::unique_ptr<BlockingGeneration> client(new BlockingGeneration(wake));
  auto generation = Generation::Create(context, std::move(request), client.get());
  if (!generation.ok()) return generation.status();
  client->generation_ = *std::move(generation);
  if (absl::Status status = client->generation_->Start(); !status.ok()) return status;
  client->closed_ = false;
  return client;
}

BlockingGeneration::~BlockingGeneration() {
  if (!closed_) generation_->Cancel();
  while (!closed_) Next(-1);
  close(wake_);
}

void BlockingGeneration::Push(Event event) {
  const MutexLock lock(mutex_);  // to the end: after the last event the owner may be gone
  events_.push_back(std::move(event));
  eventfd_write(wake_, 1);
}

bool BlockingGeneration::Take(Event* event) {
  const MutexLock lock(mutex_);
  if (events_.empty()) return false;
  *event = std::move(events_.front());
  events_.pop_front();
  return true;
}

BlockingGeneration::Event BlockingGeneration::Next(int socket) {
  if (std::exchange(busy_, false)) generation_->Resume();
  Event event;
  while (!Take(&event)) {
    pollfd waits[2] = {{.fd = wake_, .events = POLLIN, .revents = 0},
                       {.fd = hung_up_ ? -1 : socket, .events = POLLRDHUP, .revents = 0}};
    if (poll(waits, 2, -1) < 0) continue;
    eventfd_t count = 0;
    eventfd_read(wake_, &count);
    if (waits[1].revents != 0) {
      hung_up_ = true;
      generation_->Cancel();
    }
  }
  closed_ = std::holds_alternative<absl::Status>(event);
  busy_ = !closed_;
  return event;
}

}  // namespace strata::server
