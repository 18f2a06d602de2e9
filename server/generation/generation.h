#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "engine/base/types.h"
#include "engine/serve/engine.h"
#include "server/generation/generation_request.h"
#include "server/generation/sequence_text.h"
#include "server/generation/stream_pump.h"
#include "server/security/api_keys.h"
#include "server/telemetry/access_log.h"
#include "server/telemetry/metrics.h"
#include "server/text/stop_strings.h"
#include "server/text/tokenizer.h"

namespace strata::server {

struct GenerationStarted {
  std::vector<int32_t> prompt_token_ids;
  int32_t cached_tokens = 0;
  uint64_t seed = 0;
};

struct GenerationDelta {
  int32_t index = 0;  // of the sequence within the request
  std::string text;   // valid UTF-8; empty while a character or a stop string may be unfinished
  std::vector<int32_t> token_ids;
  std::vector<engine::TokenLogprobs> logprobs;  // of each of token_ids, if asked for
  std::vector<std::vector<float>> attention;    // likewise
};

struct GenerationFinished {
  int32_t index = 0;
  engine::FinishReason reason = engine::FinishReason::kNone;
  engine::RequestMetrics metrics;
  // The end-of-sequence or stop id that ended the sequence; it was in no delta.
  std::optional<engine::TokenEvent> end_token = {};
  std::string stop_string = {};  // the stop string that ended it
};

// A front's side of one generation, called on the pump's thread, one call at a time; must not
// block. In order: OnStarted, OnPromptLogprobs if asked for, then for each sequence any number of
// OnDelta and, if all went well, OnFinished, mixed for several sequences; and always, last,
// OnClosed. After each call but OnClosed nothing more comes until the front calls
// Generation::Resume(): output made meanwhile is merged into the sequences' next deltas.
class GenerationClient {
 public:
  virtual ~GenerationClient() = default;
  virtual void OnStarted(GenerationStarted started) = 0;
  // [prompt tokens - 1], for the second prompt token and so on.
  virtual void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) = 0;
  virtual void OnDelta(GenerationDelta delta) = 0;
  virtual void OnFinished(GenerationFinished finished) = 0;
  // Called when the front has not called Resume for the write timeout. The generation is already
  // cancelled; the front gives up its write and calls Resume. At most once.
  virtual void OnStalled() = 0;
  // OK after an OnFinished of each sequence, otherwise the error. The client may be gone when this
  // returns.
  virtual void OnClosed(const absl::Status& status) = 0;
};

// Parts that every generation of a server uses; they outlive the generations.
struct GenerationContext {
  engine::Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  StreamPump* pump = nullptr;
  std::chrono::milliseconds write_timeout{60000};
  const char* front = "";           // "grpc", "http": for the log
  Metrics* metrics = nullptr;       // may be null
  AccessLog* access_log = nullptr;  // may be null
  const ApiKeys* keys = nullptr;    // null: every caller may ask
  int32_t max_prompt_tokens = 0;    // 0: the limit of model and cache
};

// Begins a request of the caller with this `authorization`: sets *caller, which stays null if no
// keys are required. Errors as ApiKeys::Admit.
absl::Status AdmitCaller(const GenerationContext& context, std::string_view authorization,
                         std::shared_ptr<Caller>* caller);

// INVALID_ARGUMENT if the prompts of one request are together longer than this server takes.
absl::Status CheckPromptTokens(const GenerationContext& context, int64_t tokens);

// Logs and counts a request that became no generation, or that Start refused. `key`: its name in
// the key file, empty if none is known.
void RecordRefusal(const GenerationContext& context, const std::string& request_id,
                   const absl::Status& status, const std::string& key);

// OK if `authorization` holds a key of context.keys, else UNAUTHENTICATED, recorded as a refusal.
// REQUIRES: context.keys.
absl::Status CheckKey(const GenerationContext& context, const std::string& request_id,
                      std::string_view authorization);

// One text session, for any front:
//
//   step                                     thread          data
//   Create   validate, tokenize              the front's     text -> ids
//   Start    Engine::Submit                  the front's     ids
//   OnToken  append to the outbox, wake      the engine's    ids
//   Pump     detokenize, cut at stop strings the pump's      ids -> text
//   OnDelta  start a write                   the pump's      text
//   Resume   the write is done               the front's
//
// A sequence that meets a stop string is finished for the client; tokens that the engine makes
// before it stops are dropped. The outbox is bounded by n times max_tokens. Owned by shared_ptr:
// the engine, the pump and the front each hold it as long as they need it.
class Generation final : public engine::RequestSink,
                         public StreamPump::Stream,
                         public std::enable_shared_from_this<Generation> {
 public:
  // INVALID_ARGUMENT, "field: value and limit", for errors in the text, the stop strings, the id or
  // the time limit; the engine checks the rest in Start. `client` must live until its OnClosed.
  static absl::StatusOr<std::shared_ptr<Generation>> Create(const GenerationContext& context,
                                                            GenerationRequest request,
                                                            GenerationClient* client);

  // Queues the request. After an error, as Engine::Submit gives it, the client gets no calls.
  absl::Status Start();
  // Queues all of them or none.
  static absl::Status StartAll(const GenerationContext& context,
                               const std::vector<std::shared_ptr<Generation>>& generations);

  // Any thread, before OnClosed. See GenerationClient.
  void Resume();
  // Any thread, at any time. Leads to OnClosed, with CANCELLED unless another error came first or
  // the deadline has come.
  void Cancel();

  const std::string& id() const { return id_; }
  size_t prompt_tokens() const { return prompt_tokens_; }

  void OnStarted(const engine::StartedEvent& event) override;
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override;
  void OnToken(engine::TokenEvent event) override;
  void OnFinished(engine::FinishedEvent event) override;
  bool Pump() override;
  void Tick(StreamPump::Clock::time_point now) override;

 private:
  // Events of the engine that the client has not been given yet.
  struct SequenceOutbox {
    std::vector<engine::TokenEvent> tokens;
    std::optional<engine::FinishedEvent> finished;  // stays
  };
  struct Outbox {
    std::optional<engine::StartedEvent> started;
    std::optional<std::vector<engine::TokenLogprobs>> prompt_logprobs;
    std::vector<SequenceOutbox> sequences;  // by index, up to the last with an event
    int32_t num_finished = 0;
  };
  // The part of the outbox that is delivered next: the start, or events of one sequence.
  struct Parcel {
    std::optional<engine::StartedEvent> started;
    std::optional<std::vector<engine::TokenLogprobs>> prompt_logprobs;
    int32_t index = 0;
    SequenceOutbox sequence;
  };
  // A sequence on its way to the client.
  struct Sequence {
    SequenceText text;
    bool told_to_stop = false;  // a stop string was met before the engine ended it
    bool closed = false;        // the client gets nothing more of it
  };

  // The parts of a GenerationRequest that the engine does not know.
  struct TextOptions {
    StopStrings stop_strings;
    bool skip_special = true;
    std::string log_id;
    std::shared_ptr<Caller> caller;
  };

  Generation(const GenerationContext& context, engine::Request request, TextOptions options,
             GenerationClient* client);
  SequenceOutbox& OutboxOf(int32_t index) STRATA_REQUIRES(mutex_);
  void Wake() STRATA_REQUIRES(mutex_);
  void SetBusy();
  void MakeSequences();
  bool Take(Parcel* parcel) STRATA_REQUIRES(mutex_);
  bool TakeStarted(Parcel* parcel) STRATA_REQUIRES(mutex_);
  bool Deliver(Parcel parcel);
  bool DeliverSequence(int32_t index, SequenceOutbox box);
  void Close();
  void LogEnd(const absl::Status& status, engine::RequestMetrics metrics, int32_t num_tokens);

  const GenerationContext context_;
  const std::string id_;
  const size_t prompt_tokens_;
  const uint64_t seed_;
  const int32_t n_;
  const int32_t min_tokens_;
  const std::optional<engine::Request::Time> deadline_;
  const StopStrings stop_strings_;
  const bool skip_special_;
  const std::string log_id_;
  GenerationClient* const client_;
  const StreamPump::Clock::time_point created_ = StreamPump::Clock::now();
  std::optional<engine::Request> request_;  // until Start

  // The pump's thread.
  std::shared_ptr<Caller> caller_;                             // until the end; may be null
  std::vector<int32_t> prompt_;                                // until the client's OnStarted
  std::vector<Sequence> sequences_;                            // [n] from the first Pump on
  size_t next_sequence_ = 0;                                   // sequences take turns
  absl::Status status_;                                        // of the first sequence that failed
  engine::FinishReason reason_ = engine::FinishReason::kNone;  // of sequence 0, once told

  Mutex mutex_;
  Outbox outbox_ STRATA_GUARDED_BY(mutex_);
  bool cancelled_ STRATA_GUARDED_BY(mutex_) = false;
  bool stalled_ STRATA_GUARDED_BY(mutex_) = false;
  // Time since which the client has been busy with a call; nullopt: it can take more.
  std::optional<StreamPump::Clock::time_point> busy_since_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::server
