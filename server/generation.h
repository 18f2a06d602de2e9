#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/types.h"
#include "server/access_log.h"
#include "server/detokenizer.h"
#include "server/metrics.h"
#include "server/stream_pump.h"
#include "server/tokenizer.h"

namespace strata::server {

// What a front asks for. Absent parameters take the defaults of inference.proto.
struct GenerationRequest {
  std::string request_id;  // empty: drawn
  // Not given, text, or token ids.
  std::variant<std::monostate, std::string, std::vector<int32_t>> prompt;
  std::optional<int32_t> max_tokens;
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<uint64_t> seed;  // absent: drawn
  std::vector<int32_t> stop_token_ids;
  std::optional<bool> ignore_eos;
};

struct GenerationStarted {
  std::vector<int32_t> prompt_token_ids;
  int32_t cached_tokens = 0;
  uint64_t seed = 0;
};

struct GenerationDelta {
  std::string text;  // valid UTF-8; empty while a character is unfinished
  std::vector<int32_t> token_ids;
};

struct GenerationFinished {
  engine::FinishReason reason = engine::FinishReason::kNone;
  engine::RequestMetrics metrics;
};

// A front's side of one generation, called on the pump's thread, one call at a time; must not
// block. In order: OnStarted, any number of OnDelta, OnFinished if all went well, and always, last,
// OnClosed. After each but OnClosed nothing more comes until the front calls Generation::Resume():
// what the engine makes meanwhile is merged into the next delta.
class GenerationClient {
 public:
  virtual ~GenerationClient() = default;
  virtual void OnStarted(GenerationStarted started) = 0;
  virtual void OnDelta(GenerationDelta delta) = 0;
  virtual void OnFinished(const GenerationFinished& finished) = 0;
  // The front has not called Resume for the write timeout. The generation is cancelled already; the
  // front gives up its write and calls Resume. At most once.
  virtual void OnStalled() = 0;
  // OK after OnFinished, else why it ended. The client may be gone when this returns.
  virtual void OnClosed(const absl::Status& status) = 0;
};

// What every generation of a server works with, and what outlives them.
struct GenerationContext {
  engine::Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  StreamPump* pump = nullptr;
  std::chrono::milliseconds write_timeout{60000};
  const char* front = "";           // "grpc", "http": for the log
  Metrics* metrics = nullptr;       // may be null
  AccessLog* access_log = nullptr;  // may be null
};

// Logs and counts a request that no generation was made of, or that Start refused.
void RecordRefusal(const GenerationContext& context, const std::string& request_id,
                   const absl::Status& status);

// One text session, whatever the front:
//
//   step                                     thread          data
//   Create   validate, tokenize              the front's     text -> ids
//   Start    Engine::Submit                  the front's     ids
//   OnToken  append to the outbox, wake      the engine's    ids
//   Pump     take the outbox, detokenize     the pump's      ids -> text
//   OnDelta  start a write                   the pump's      text
//   Resume   the write is done               the front's
//
// The outbox is bounded by max_tokens. Owned by shared_ptr: the engine, the pump and the front each
// hold it as long as they need it.
class Generation final : public engine::RequestSink,
                         public StreamPump::Stream,
                         public std::enable_shared_from_this<Generation> {
 public:
  // INVALID_ARGUMENT, "field: value and limit", for what is wrong with the text or the id; the
  // engine checks the rest in Start. `client` must live until its OnClosed.
  static absl::StatusOr<std::shared_ptr<Generation>> Create(const GenerationContext& context,
                                                            GenerationRequest request,
                                                            GenerationClient* client);

  // Queues the request. With an error, as Engine::Submit gives it, the client hears nothing.
  absl::Status Start();

  // Any thread, before OnClosed. See GenerationClient.
  void Resume();
  // Any thread, at any time. Leads to OnClosed, with CANCELLED unless another error came first.
  void Cancel();

  const std::string& id() const { return id_; }

  void OnStarted(const engine::StartedEvent& event) override;
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override;
  void OnToken(const engine::TokenEvent& event) override;
  void OnFinished(const engine::FinishedEvent& event) override;
  bool Pump() override;
  void Tick(StreamPump::Clock::time_point now) override;

 private:
  // What the engine has told and the client not yet.
  struct Outbox {
    std::optional<engine::StartedEvent> started;
    std::vector<int32_t> tokens;
    std::optional<engine::FinishedEvent> finished;  // stays
  };

  Generation(const GenerationContext& context, engine::Request request, GenerationClient* client);
  void WakeLocked();
  void SetBusy();
  bool Deliver(Outbox box);
  void Close(const engine::FinishedEvent& finished, bool cancelled);

  const GenerationContext context_;
  const std::string id_;
  const uint64_t seed_;
  GenerationClient* const client_;
  const StreamPump::Clock::time_point created_ = StreamPump::Clock::now();
  std::optional<engine::Request> request_;  // until Start
  std::vector<int32_t> prompt_;             // until the client's OnStarted
  Detokenizer detokenizer_;                 // pump's thread
  bool flushed_ = false;                    // pump's thread: detokenizer_ holds nothing back
  bool told_finished_ = false;              // pump's thread

  std::mutex mutex_;
  Outbox outbox_;           // guarded by mutex_
  bool cancelled_ = false;  // guarded by mutex_
  bool stalled_ = false;    // guarded by mutex_
  // Since when the client has been busy with what it was told; absent: it can take more.
  std::optional<StreamPump::Clock::time_point> busy_since_;  // guarded by mutex_
};

}  // namespace strata::server
