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
  std::string name = {};        // of the model; empty: ModelNameOf(model_dir), or the shape's
  std::string shape = {};       // a published shape with random weights instead; empty: none
  std::string device = "auto";  // auto, cpu, cuda
  int32_t threads = 0;          // CPU; 0: every core this process may use
  bool pin_threads = false;     // CPU: each of them stays on a core of its own
  // CUDA: the same bits whatever else is in a step, for some of the speed. The CPU's always are.
  bool batch_invariant = false;
  // What matrices are kept as: auto (as the checkpoint; on the CPU f16 as f32), f32, bf16, int8; on
  // CUDA f16 and fp8 as well.
  std::string weights = "auto";
  // auto (as the weights; under 8 bits as the checkpoint), or one of those; for keys and values
  // apart "k=int8,v=bf16".
  std::string cache_dtype = "auto";
  // JSON that replaces config.json's key, or the name of a plan; empty: none.
  std::string cross_layer = {};
  // auto (generation_config.json says what a request that says nothing gets), none.
  std::string generation_config = "auto";
  // How decode applies reused scores: store (read them back), route (compute them again), auto
  // (store where that moves fewer bytes).
  std::string score_reuse = "auto";
  size_t cache_bytes = size_t{64} << 20;
  // In their place, where the device has memory of its own: of that, for weights, working memory
  // and cache together; (0, 1]. 0: cache_bytes says.
  double memory_share = 0;
  // 32 keys of a dimension fill a cache line in bf16, and planes are long enough for a processor to
  // fetch ahead in.
  int32_t block_tokens = 32;
  size_t memory_limit = 0;  // on the CPU, for all; 0: what the cgroup allows
  // Tokens in one step, decodes and prefill chunks together, and of one sequence among them. 0:
  // what keeps the device busy (Backend::StepTokens), 512 on the CPU and 8,192 on CUDA.
  int32_t max_batch_tokens = 0;
  int32_t max_prefill_chunk = 0;
  // What a step may take while others are decoding: prompts get what fits, and at least as many
  // rows as decodes have. Zero: whatever it takes.
  std::chrono::milliseconds max_step_time{0};
  int32_t max_running = 256;  // sequences in the batch, and no more than max_batch_tokens
  int32_t max_queue = 1024;   // requests waiting to be admitted
  bool prefix_cache = true;
  // A priority level is worth so much waiting. Zero: arrival alone decides.
  std::chrono::milliseconds priority_ageing{10000};
  EngineObserver* observer = nullptr;  // outlives the engine; may be null
  // What runs the model in place of `device`: for tests and benchmarks.
  std::function<std::unique_ptr<kernels::Backend>()> make_backend = {};
};

// What a model is and what this server can do with it. Constant after Create.
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

// A request's hold on the engine's work: Submit returns once the request is queued.
// Error codes of Submit:
//   INVALID_ARGUMENT     "field: value and limit": empty prompt, bad ids, parameters out of range,
//                        prompt and max_tokens over the model's positions or over the whole cache
//   ALREADY_EXISTS       a request with this id is in flight
//   RESOURCE_EXHAUSTED   the queue is full; RetryAfterOf(status) says when to try again
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
  // All of them or none, under the limits of one request: a caller's list of prompts. Errors name
  // the prompt as "prompt[3]" where there are several.
  absl::Status Submit(std::vector<Submission> submissions);
  // The request finishes with kCancelled before the next step. No effect on unknown ids.
  void Cancel(const std::string& request_id);
  // One of its sequences finishes with kStop: who reads its text needs no more of it. No effect
  // while the prompt is computed.
  void Stop(const std::string& request_id, int32_t index);

  // Refuses new requests, waits until the running ones are done or `limit` has passed, ends the
  // rest with UNAVAILABLE, stops the thread. May be called again.
  void Shutdown(std::chrono::milliseconds limit);

  // As it stood when the step under way began, or the last one ended; all of one moment, but for
  // requests that came since, which wait.
  struct Load {
    int32_t waiting = 0;  // sequences
    int32_t running = 0;
    int32_t blocks_total = 0;   // = used + cached + free
    int32_t blocks_used = 0;    // held by sequences
    int32_t blocks_cached = 0;  // of the prefix cache, held by none: can be evicted
    int32_t blocks_free = 0;
    int32_t score_blocks_total = 0;
    int32_t score_blocks_used = 0;
    int64_t steps = 0;         // that ended
    bool stepping = false;     // one is under way
    Request::Time step_began;  // the last, or the one under way
  };
  Load load() const;

  // OK, or INTERNAL with the error of the device that ended it: every request has ended with it, or
  // is about to, and no more are taken. There is nothing left to do but to start again.
  absl::Status failure() const;

 private:
  struct Queued {
    Submission submission;
    Request::Time submitted;
  };
  struct Cancellation {
    std::string id;
    std::optional<int32_t> index;  // of the sequence that is to stop; absent: cancel all
    Request::Time called;
    int64_t step = 0;  // that had ended then
  };
  Engine(std::unique_ptr<EngineCore> core, const EngineOptions& options);
  void Run();
  void PutCancellation(const std::string& request_id, std::optional<int32_t> index);
  void Cancel(const Cancellation& cancellation);
  void UpdateLoad(bool stepping);
  std::chrono::milliseconds RetryAfter() const STRATA_REQUIRES(mutex_);

  std::unique_ptr<EngineCore> core_;  // of the engine's thread, but for its constant parts
  const int32_t max_queue_;
  EngineObserver* const observer_;  // may be null

  mutable Mutex mutex_;
  CondVar wake_;
  std::vector<Queued> submissions_ STRATA_GUARDED_BY(mutex_);
  std::vector<Cancellation> cancels_ STRATA_GUARDED_BY(mutex_);
  std::unordered_set<std::string> in_flight_
      STRATA_GUARDED_BY(mutex_);  // ids from Submit to finished
  Load load_ STRATA_GUARDED_BY(mutex_);
  Request::Time last_leaving_ STRATA_GUARDED_BY(mutex_);      // the queue
  double leaving_interval_ STRATA_GUARDED_BY(mutex_) = 0.01;  // seconds, a moving average
  bool draining_ STRATA_GUARDED_BY(mutex_) = false;
  absl::Status failure_ STRATA_GUARDED_BY(mutex_);
  Request::Time deadline_ STRATA_GUARDED_BY(mutex_);  // end of the drain
  Mutex join_mutex_;                                  // held while thread_ is joined
  std::thread thread_;                                // last: starts when the rest stands
};

// The plan of the model in `model_dir`, without loading its weights, and what its cache takes on
// the CPU: `strata plan`.
absl::StatusOr<PlanReport> ExplainPlan(const std::filesystem::path& model_dir,
                                       const std::string& cross_layer,
                                       const std::string& cache_dtype,
                                       const std::string& score_reuse);

}  // namespace strata::engine
