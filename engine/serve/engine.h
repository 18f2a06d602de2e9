#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/model_source.h"
#include "engine/base/mutex.h"
#include "engine/base/types.h"
#include "engine/serve/observer.h"
#include "engine/serve/plan_report.h"

namespace strata::kernels {
class Backend;
}

namespace strata::engine {

class EngineCore;

struct EngineOptions {
  std::filesystem::path model_dir;
  std::string name = {};   // of the model; empty: the source's
  std::string shape = {};  // a published shape with random weights instead; empty: none
  // The model if it is open already, in place of model_dir and shape.
  std::shared_ptr<const ModelSource> source = {};
  std::string device = "auto";  // auto, cpu, cuda
  int32_t threads = 0;          // CPU; 0: every core this process may use
  bool pin_threads = false;     // CPU: each thread stays on a core of its own
  // CUDA: a row's bits do not depend on the rest of a step, at some cost in speed. The CPU's never
  // do.
  bool batch_invariant = false;
  // Dtype of matrices: auto (as the checkpoint; on the CPU f16 as f32), f32, bf16, int8; on CUDA
  // f16 and fp8 as well.
  std::string weights = "auto";
  // auto (as the weights; with 8-bit weights as the checkpoint), or one of these; keys and values
  // apart as "k=int8,v=bf16".
  std::string cache_dtype = "auto";
  // JSON that replaces config.json's key, or the name of a plan; empty: none.
  std::string cross_layer = {};
  // Whether generation_config.json gives the defaults of parameters that a request omits.
  bool generation_config = true;
  ScoreReuse score_reuse = ScoreReuse::kAuto;
  size_t cache_bytes = size_t{64} << 20;
  // Share of a device's own memory for weights, working memory and cache together, (0, 1], in place
  // of cache_bytes. 0: cache_bytes decides.
  double memory_share = 0;
  // 32 keys of a dimension fill a cache line in bf16, and planes are long enough for a processor to
  // fetch ahead in.
  int32_t block_tokens = 32;
  size_t memory_limit = 0;  // on the CPU, for everything; 0: the cgroup's limit
  // Tokens in one step, decodes and prefill chunks together, and of one sequence among them. 0:
  // enough to keep the device busy (Backend::StepTokens), 512 on the CPU and 8,192 on CUDA.
  int32_t max_batch_tokens = 0;
  int32_t max_prefill_chunk = 0;
  // Time limit of a step with decodes: prompts get the rows that fit, and at least as many rows as
  // decodes have. Zero: no limit.
  std::chrono::milliseconds max_step_time{0};
  int32_t max_running = 256;  // sequences in the batch, and no more than max_batch_tokens
  int32_t max_queue = 1024;   // requests waiting to be admitted
  bool prefix_cache = true;
  // Time of waiting that one priority level is worth. Zero: only arrival counts.
  std::chrono::milliseconds priority_ageing{10000};
  EngineObserver* observer = nullptr;  // outlives the engine; may be null
  // Makes the backend in place of `device`: for tests and benchmarks.
  std::function<std::unique_ptr<kernels::Backend>()> make_backend = {};
};

// Properties of a model, and of this server for it. Constant after Create.
struct ModelInfo {
  std::string name;  // as EngineOptions::name says
  std::string architecture;
  std::string device;  // the backend's description
  std::string dtype;   // of the weights
  int64_t parameters = 0;
  size_t weight_bytes = 0;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t max_positions = 0;  // prompt and output together
  int64_t cache_tokens = 0;   // capacity of the cache
  int32_t block_tokens = 0;
  int32_t max_batch_tokens = 0;   // of a step
  int32_t max_prefill_chunk = 0;  // of one sequence in it
  size_t cache_bytes = 0;
  std::vector<int32_t> eos_ids;
  SamplingDefaults defaults;
  std::vector<std::string> unused_tensors;  // of the checkpoint, as Weights::unused
  size_t unused_bytes = 0;
  PlanReport plan;
};

// Takes requests for the engine's work: Submit returns once the request is queued.
// Error codes of Submit:
//   INVALID_ARGUMENT     "field: value and limit": empty prompt, bad ids, parameters out of range,
//                        prompt and max_tokens over the model's positions or over the whole cache
//   ALREADY_EXISTS       a request with this id is in flight
//   RESOURCE_EXHAUSTED   the queue is full; RetryAfterOf(status) is the time until another try
//   UNAVAILABLE          draining or shut down, or the device has failed
//
// Threads: every public method may be called from any thread. One thread of its own runs the steps
// and calls the sinks.
class Engine {
 public:
  // Loads the model and starts the engine's thread.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options);
  ~Engine();  // Shutdown() with no patience

  const ModelInfo& model() const;

  struct Submission {
    Request request;
    std::shared_ptr<RequestSink> sink;
  };
  absl::Status Submit(Request request, std::shared_ptr<RequestSink> sink);
  // Queues all submissions or none, under the limits of one request: a caller's list of prompts.
  // Errors name the prompt as "prompt[3]" if there are several.
  absl::Status Submit(std::vector<Submission> submissions);
  // Ends the request with kCancelled before the next step. No effect on unknown ids.
  void Cancel(const std::string& request_id);
  // Ends one sequence of the request with kStop: the reader of its text needs no more. No effect
  // while the prompt is computed.
  void Stop(const std::string& request_id, int32_t index);

  // Refuses new requests, waits until the running ones are done or `limit` has passed, ends the
  // remaining ones with UNAVAILABLE, stops the thread. May be called again.
  void Shutdown(std::chrono::milliseconds limit);

  // Counts of one moment: the begin of the step under way, or the end of the last step. Requests
  // since then are added to `waiting`.
  struct Load {
    int32_t waiting = 0;  // sequences
    int32_t running = 0;
    int32_t blocks_total = 0;   // = used + cached + free
    int32_t blocks_used = 0;    // held by sequences
    int32_t blocks_cached = 0;  // only in the prefix cache: can be evicted
    int32_t blocks_free = 0;
    int32_t score_blocks_total = 0;
    int32_t score_blocks_used = 0;
    int64_t steps = 0;         // steps that ended
    bool stepping = false;     // a step is under way
    Request::Time step_began;  // the step under way, or the last
  };
  Load load() const;

  // OK, or INTERNAL with the device's error that ended the engine: every request has ended or is
  // about to end with it, and no more are taken. The process must be started again.
  absl::Status failure() const;

 private:
  struct Queued {
    Submission submission;
    Request::Time submitted;
  };
  struct Cancellation {
    std::string id;
    std::optional<int32_t> index;  // of the sequence to stop; absent: cancel all
    Request::Time called;
    int64_t step = 0;  // steps that had ended by then
  };
  Engine(std::unique_ptr<EngineCore> core, const EngineOptions& options);
  void Run();
  void PutCancellation(const std::string& request_id, std::optional<int32_t> index);
  void Cancel(const Cancellation& cancellation);
  void UpdateLoad(bool stepping);
  std::chrono::milliseconds RetryAfter() const STRATA_REQUIRES(mutex_);

  std::unique_ptr<EngineCore> core_;  // the engine thread's, but for its constant parts
  const int32_t max_queue_;
  EngineObserver* const observer_;  // may be null

  mutable Mutex mutex_;
  CondVar wake_;
  std::vector<Queued> submissions_ STRATA_GUARDED_BY(mutex_);
  std::vector<Cancellation> cancels_ STRATA_GUARDED_BY(mutex_);
  std::unordered_set<std::string> in_flight_
      STRATA_GUARDED_BY(mutex_);  // ids from Submit to finished
  Load load_ STRATA_GUARDED_BY(mutex_);
  Request::Time last_leaving_ STRATA_GUARDED_BY(mutex_);      // when a request last left the queue
  double leaving_interval_ STRATA_GUARDED_BY(mutex_) = 0.01;  // seconds, a moving average
  bool draining_ STRATA_GUARDED_BY(mutex_) = false;
  absl::Status failure_ STRATA_GUARDED_BY(mutex_);
  Request::Time deadline_ STRATA_GUARDED_BY(mutex_);  // end of the drain
  Mutex join_mutex_;                                  // held while thread_ is joined
  std::thread thread_;                                // last: starts when all the rest is made
};

// The plan of the model in `model_dir`, without loading its weights, and the size of its cache on
// the CPU: `strata plan`.
absl::StatusOr<PlanReport> ExplainPlan(const std::filesystem::path& model_dir,
                                       const std::string& cross_layer,
                                       const std::string& cache_dtype, ScoreReuse score_reuse);

}  // namespace strata::engine
