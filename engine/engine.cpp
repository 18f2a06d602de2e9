#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "engine/engine_core.h"
#include "engine/errors.h"

namespace strata::engine {

using Clock = std::chrono::steady_clock;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  auto core = EngineCore::Create(options);
  if (!core.ok()) return core.status();
  return std::unique_ptr<Engine>(new Engine(*std::move(core), options.max_queue));
}

Engine::Engine(std::unique_ptr<EngineCore> core, int32_t max_queue)
    : core_(std::move(core)), max_queue_(max_queue) {
  load_.blocks_total = core_->cache().usage().blocks_total;
  core_->set_release_hook([this](const std::string& id) {
    const std::lock_guard lock(mutex_);
    in_flight_.erase(id);
    std::erase(cancels_, id);  // meant for this request, not for the id's next owner
  });
  thread_ = std::thread([this] { Run(); });
}

Engine::~Engine() { Shutdown(std::chrono::milliseconds(0)); }

const ModelInfo& Engine::model() const { return core_->model(); }

absl::Status Engine::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  if (absl::Status status = core_->Validate(request); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  if (draining_) return absl::UnavailableError("the server is shutting down");
  const int64_t waiting = std::ssize(submissions_) + load_.waiting;
  if (waiting >= max_queue_) {
    return absl::ResourceExhaustedError(
        Concat("queue: ", waiting, " requests wait, the limit is ", max_queue_));
  }
  if (!in_flight_.insert(request.id).second) {
    return absl::AlreadyExistsError(
        Concat("request_id: \"", request.id, "\" is the id of a request in flight"));
  }
  submissions_.push_back({std::move(request), std::move(sink), Clock::now()});
  wake_.notify_one();
  return absl::OkStatus();
}

void Engine::Cancel(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  if (!in_flight_.contains(request_id)) return;
  cancels_.push_back(request_id);
  wake_.notify_one();
}

void Engine::Shutdown(std::chrono::milliseconds limit) {
  {
    const std::lock_guard lock(mutex_);
    const auto deadline = Clock::now() + limit;
    deadline_ = draining_ ? std::min(deadline_, deadline) : deadline;
    draining_ = true;
    wake_.notify_one();
  }
  const std::lock_guard join_lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

Engine::Load Engine::load() const {
  const std::lock_guard lock(mutex_);
  return load_;
}

// The engine's thread: takes in what callers left, then runs one step.
void Engine::Run() {
  for (;;) {
    std::vector<Submission> submissions;
    std::vector<std::string> cancels;
    bool stop = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] {
        return draining_ || !submissions_.empty() || !cancels_.empty() || core_->HasWork();
      });
      submissions.swap(submissions_);
      load_.waiting += static_cast<int32_t>(submissions.size());
      cancels.swap(cancels_);
      stop = draining_ && ((submissions.empty() && !core_->HasWork()) || Clock::now() >= deadline_);
    }
    for (Submission& submission : submissions) {
      core_->Add(std::move(submission.request), std::move(submission.sink), submission.submitted);
    }
    for (const std::string& id : cancels) {
      core_->Finish(id, FinishReason::kCancelled, absl::CancelledError("cancelled by the caller"));
    }
    if (stop) {
      core_->FinishAll(FinishReason::kError, absl::UnavailableError("the server is shutting down"));
    } else {
      core_->Admit();
      UpdateLoad();  // a request that starts now no longer takes a place in the queue
      core_->Step();
    }
    UpdateLoad();
    if (stop) return;
  }
}

void Engine::UpdateLoad() {
  const Scheduler& scheduler = core_->scheduler();
  const std::lock_guard lock(mutex_);
  load_.waiting = static_cast<int32_t>(scheduler.waiting().size());
  load_.running = static_cast<int32_t>(scheduler.running().size());
  load_.blocks_used = core_->cache().usage().blocks_used;
}

}  // namespace strata::engine
