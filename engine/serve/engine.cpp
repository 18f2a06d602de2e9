#include "engine/serve/engine.h"

#include <algorithm>
#include <utility>

#include "engine/base/clock.h"
#include "engine/serve/engine_core.h"
#include "engine/serve/request_check.h"
#include "kernels/status_macros.h"
#include "kvcache/base/error_details.h"
#include "kvcache/base/errors.h"

namespace strata::engine {

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  ASSIGN_OR_RETURN(
      auto core,
      EngineCore::Create(options, options.make_backend ? options.make_backend() : nullptr));
  return std::unique_ptr<Engine>(new Engine(std::move(core), options));
}

Engine::Engine(std::unique_ptr<EngineCore> core, const EngineOptions& options)
    : core_(std::move(core)), max_queue_(options.max_queue), observer_(options.observer) {
  UpdateLoad(/*stepping=*/false);
  core_->set_release_hook([this](const std::string& id) {
    const MutexLock lock(mutex_);
    in_flight_.erase(id);
    std::erase_if(cancels_, [&](const Cancellation& c) {
      return c.id == id;
    });  // meant for this request, not for the id's next owner
  });
  thread_ = std::thread([this] { Run(); });
}

Engine::~Engine() { Shutdown(std::chrono::milliseconds(0)); }

const ModelInfo& Engine::model() const { return core_->model(); }

absl::Status Engine::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  std::vector<Submission> submissions;
  submissions.push_back({std::move(request), std::move(sink)});
  return Submit(std::move(submissions));
}

absl::Status Engine::Submit(std::vector<Submission> submissions) {
  RequestTotals totals;
  for (size_t i = 0; i < submissions.size(); ++i) {
    const Request& request = submissions[i].request;
    absl::Status status = core_->Validate(request);
    if (status.ok()) status = totals.Add(request);
    if (!status.ok()) return submissions.size() > 1 ? NamePrompt(i, status) : status;
  }
  const MutexLock lock(mutex_);
  if (!failure_.ok()) {
    return absl::UnavailableError(Concat("the device has failed: ", failure_.message()));
  }
  if (draining_) return absl::UnavailableError("the server is shutting down");
  const int64_t waiting = std::ssize(submissions_) + load_.waiting;
  // An empty queue takes a list longer than the queue, as it takes a prompt that it cannot run yet.
  if (waiting > 0 && waiting + std::ssize(submissions) > max_queue_) {
    return WithRetryAfter(
        InField("queue", absl::ResourceExhaustedError(
                             Concat(waiting, " requests wait, the limit is ", max_queue_))),
        RetryAfter());
  }
  for (size_t i = 0; i < submissions.size(); ++i) {
    const std::string& id = submissions[i].request.id;
    if (in_flight_.insert(id).second) continue;
    for (size_t j = 0; j < i; ++j) in_flight_.erase(submissions[j].request.id);
    return InField("request_id", absl::AlreadyExistsError(
                                     Concat("\"", id, "\" is the id of a request in flight")));
  }
  const Request::Time now = Clock::now();
  for (Submission& submission : submissions) submissions_.push_back({std::move(submission), now});
  wake_.NotifyOne();
  return absl::OkStatus();
}

void Engine::Cancel(const std::string& request_id) { PutCancellation(request_id, {}); }

void Engine::Stop(const std::string& request_id, int32_t index) {
  PutCancellation(request_id, index);
}

void Engine::PutCancellation(const std::string& request_id, std::optional<int32_t> index) {
  const MutexLock lock(mutex_);
  if (!in_flight_.contains(request_id)) return;
  cancels_.push_back({request_id, index, Clock::now(), load_.steps});
  wake_.NotifyOne();
}

void Engine::Shutdown(std::chrono::milliseconds limit) {
  {
    const MutexLock lock(mutex_);
    const auto deadline = Clock::now() + limit;
    deadline_ = draining_ ? std::min(deadline_, deadline) : deadline;
    draining_ = true;
    wake_.NotifyOne();
  }
  const MutexLock join_lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

Engine::Load Engine::load() const {
  const MutexLock lock(mutex_);
  Load load = load_;
  load.waiting += static_cast<int32_t>(submissions_.size());
  return load;
}

absl::Status Engine::failure() const {
  const MutexLock lock(mutex_);
  return failure_;
}

// Estimates when a place in the queue is free, from the intervals at which requests left it. The
// time since the last one left counts too, so that hints grow while a queue stands still.
std::chrono::milliseconds Engine::RetryAfter() const {
  const double since = Seconds(last_leaving_, Clock::now());
  const double seconds = std::clamp(std::max(leaving_interval_, since), 0.1, 60.0);
  return std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds));
}

// The engine's thread: takes callers' submissions and cancellations, then runs one step.
void Engine::Run() {
  core_->backend().BindThread();
  for (;;) {
    std::vector<Queued> submissions;
    std::vector<Cancellation> cancels;
    absl::Status end;  // not OK: the reason why this is the last turn
    {
      MutexLock lock(mutex_);
      failure_ = core_->failure();
      while (failure_.ok() && !draining_ && submissions_.empty() && cancels_.empty() &&
             !core_->HasWork()) {
        wake_.Wait(mutex_);
      }
      submissions.swap(submissions_);
      load_.waiting += static_cast<int32_t>(submissions.size());
      cancels.swap(cancels_);
      if (!failure_.ok()) {
        end = failure_;
      } else if (draining_ &&
                 ((submissions.empty() && !core_->HasWork()) || Clock::now() >= deadline_)) {
        end = absl::UnavailableError("the server is shutting down");
      }
    }
    for (auto& [submission, submitted] : submissions) {
      core_->Add(std::move(submission.request), std::move(submission.sink), submitted);
    }
    for (const Cancellation& cancellation : cancels) Cancel(cancellation);
    if (!end.ok()) {
      core_->FinishAll(FinishReason::kError, end);
    } else {
      core_->Plan();
      UpdateLoad(/*stepping=*/true);  // a request that starts now takes no place in the queue
      core_->Execute();
    }
    UpdateLoad(/*stepping=*/false);
    if (!end.ok()) return;
  }
}

void Engine::Cancel(const Cancellation& cancellation) {
  const auto& [id, index, called, step] = cancellation;
  if (index) {
    core_->Finish(id, *index, FinishReason::kStop, absl::OkStatus());
    return;
  }
  const bool known =
      core_->Finish(id, FinishReason::kCancelled, absl::CancelledError("cancelled by the caller"));
  if (!known || observer_ == nullptr) return;
  observer_->OnAbort({.seconds = Seconds(called, Clock::now()), .steps = core_->steps() - step});
}

void Engine::UpdateLoad(bool stepping) {
  const Scheduler& scheduler = core_->scheduler();
  const kvcache::CacheUsage usage = core_->cache().usage();
  const MutexLock lock(mutex_);
  const auto waiting = static_cast<int32_t>(scheduler.waiting().size());
  const Request::Time now = Clock::now();
  if (waiting < load_.waiting) {
    const double seconds = Seconds(last_leaving_, now);
    leaving_interval_ += 0.1 * (seconds / (load_.waiting - waiting) - leaving_interval_);
    last_leaving_ = now;
  } else if (waiting == 0) {
    last_leaving_ = now;
  }
  if (stepping) load_.step_began = now;
  load_.waiting = waiting;
  load_.running = static_cast<int32_t>(scheduler.running().size());
  load_.blocks_total = usage.blocks_total;
  load_.blocks_used = usage.blocks_used;
  load_.blocks_cached = usage.blocks_cached;
  load_.blocks_free = usage.blocks_free;
  load_.score_blocks_total = usage.score_blocks_total;
  load_.score_blocks_used = usage.score_blocks_used;
  load_.steps = core_->steps();
  load_.stepping = stepping;
}

}  // namespace strata::engine
