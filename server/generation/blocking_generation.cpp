#include "server/generation/blocking_generation.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/serve/request_check.h"
#include "kvcache/base/error_details.h"

namespace strata::server {

absl::StatusOr<std::unique_ptr<BlockingGeneration>> BlockingGeneration::Start(
    const GenerationContext& context, std::vector<GenerationRequest> requests) {
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    return InField("eventfd", absl::ResourceExhaustedError(std::generic_category().message(errno)));
  }
  std::unique_ptr<BlockingGeneration> all(new BlockingGeneration(wake));
  RETURN_IF_ERROR(all->Create(context, std::move(requests)));
  std::vector<std::shared_ptr<Generation>> generations;
  for (const auto& member : all->members_) generations.push_back(member->generation);
  RETURN_IF_ERROR(Generation::StartAll(context, generations));
  all->open_ = all->members_.size();
  return all;
}

absl::Status BlockingGeneration::Create(const GenerationContext& context,
                                        std::vector<GenerationRequest> requests) {
  int64_t prompt_tokens = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    auto member = std::make_unique<Member>(this, i);
    auto generation = Generation::Create(context, std::move(requests[i]), member.get());
    if (!generation.ok()) {
      return requests.size() > 1 ? engine::NamePrompt(i, generation.status()) : generation.status();
    }
    member->generation = *std::move(generation);
    prompt_tokens += static_cast<int64_t>(member->generation->prompt_tokens());
    members_.push_back(std::move(member));
  }
  return CheckPromptTokens(context, prompt_tokens);
}

BlockingGeneration::~BlockingGeneration() {
  if (open_ > 0) Cancel();
  while (open_ > 0) Next(-1);
  close(wake_);
}

void BlockingGeneration::Cancel() {
  for (const auto& member : members_) member->generation->Cancel();
}

void BlockingGeneration::Push(Event event) {
  const MutexLock lock(mutex_);  // held to the end: after the last event the owner may be gone
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
  if (busy_ != nullptr) std::exchange(busy_, nullptr)->generation->Resume();
  for (;;) {
    Event event;
    while (!Take(&event)) Wait(socket);
    const auto* status = std::get_if<absl::Status>(&event.content);
    if (status == nullptr) {
      busy_ = members_[event.prompt].get();
      return event;
    }
    if (Close(*status)) return {.content = status_};
  }
}

void BlockingGeneration::Wait(int socket) {
  pollfd waits[2] = {{.fd = wake_, .events = POLLIN, .revents = 0},
                     {.fd = hung_up_ ? -1 : socket, .events = POLLRDHUP, .revents = 0}};
  if (poll(waits, 2, -1) < 0) return;
  eventfd_t count = 0;
  eventfd_read(wake_, &count);
  if (waits[1].revents == 0) return;
  hung_up_ = true;
  Cancel();
}

// Records that a generation has ended; returns whether it was the last.
bool BlockingGeneration::Close(const absl::Status& status) {
  --open_;
  if (!status.ok() && status_.ok()) {
    status_ = status;
    Cancel();
  }
  return open_ == 0;
}

}  // namespace strata::server
