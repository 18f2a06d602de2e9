#include "server/generation.h"

#include <algorithm>
#include <random>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

uint64_t DrawRandom() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::StatusOr<std::vector<int32_t>> TokenizePrompt(const Tokenizer& tokenizer,
                                                    const std::string& text) {
  if (text.empty()) {
    return absl::InvalidArgumentError("prompt: empty text; at least one character is needed");
  }
  auto ids = tokenizer.Encode(text, {.add_special_tokens = true, .parse_special = true});
  if (ids.ok()) return ids;
  return absl::Status(ids.status().code(),
                      absl::StrCat("prompt: ", std::string(ids.status().message())));
}

// The default, cut to what fits beside the prompt; the last token takes no room in the cache. A
// prompt that leaves no room keeps 1, for the engine to refuse it with the limit.
int32_t DefaultMaxTokens(const engine::ModelInfo& model, size_t prompt_tokens) {
  const int64_t room = std::min<int64_t>(model.max_positions, model.cache_tokens + 1) -
                       static_cast<int64_t>(prompt_tokens);
  const int64_t fallback = engine::SamplingParams{}.max_tokens;
  return static_cast<int32_t>(std::clamp<int64_t>(room, 1, fallback));
}

engine::SamplingParams MakeSampling(const GenerationRequest& request,
                                    const engine::ModelInfo& model, size_t prompt_tokens) {
  const engine::SamplingParams defaults;
  return {
      .temperature = request.temperature.value_or(defaults.temperature),
      .top_k = request.top_k.value_or(defaults.top_k),
      .top_p = request.top_p.value_or(defaults.top_p),
      .min_p = request.min_p.value_or(defaults.min_p),
      .seed = request.seed ? *request.seed : DrawRandom(),
      .max_tokens =
          request.max_tokens ? *request.max_tokens : DefaultMaxTokens(model, prompt_tokens),
      .stop_ids = request.stop_token_ids,
      .ignore_eos = request.ignore_eos.value_or(defaults.ignore_eos),
  };
}

}  // namespace

void RecordRefusal(const GenerationContext& context, const std::string& request_id,
                   const absl::Status& status) {
  if (context.metrics != nullptr) context.metrics->CountRejection(status);
  if (context.access_log == nullptr) return;
  context.access_log->Append(
      {.front = context.front, .request_id = request_id, .status = status, .metrics = {}});
}

absl::StatusOr<std::shared_ptr<Generation>> Generation::Create(const GenerationContext& context,
                                                               GenerationRequest request,
                                                               GenerationClient* client) {
  if (request.request_id.size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("request_id: ", request.request_id.size(),
                                                   " bytes; at most ", kMaxRequestIdBytes));
  }
  engine::Request work;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    auto ids = TokenizePrompt(*context.tokenizer, *text);
    if (!ids.ok()) return ids.status();
    work.prompt = *std::move(ids);
  } else if (auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) {
    work.prompt = std::move(*ids);
  } else {
    return absl::InvalidArgumentError("prompt: none; give text or token_ids");
  }
  work.id = request.request_id.empty() ? absl::StrFormat("gen-%016x", DrawRandom())
                                       : std::move(request.request_id);
  work.sampling = MakeSampling(request, context.engine->model(), work.prompt.size());
  return std::shared_ptr<Generation>(new Generation(context, std::move(work), client));
}

Generation::Generation(const GenerationContext& context, engine::Request request,
                       GenerationClient* client)
    : context_(context),
      id_(request.id),
      seed_(request.sampling.seed),
      client_(client),
      request_(std::move(request)),
      prompt_(request_->prompt),
      detokenizer_(context.tokenizer, /*skip_special=*/true) {}

absl::Status Generation::Start() {
  engine::Request request = *std::move(request_);
  request_.reset();
  return context_.engine->Submit(std::move(request), shared_from_this());
}

void Generation::Resume() {
  const std::lock_guard lock(mutex_);
  busy_since_.reset();
  WakeLocked();
}

void Generation::Cancel() {
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    if (outbox_.finished) return;
  }
  context_.engine->Cancel(id_);
}

void Generation::OnStarted(const engine::StartedEvent& event) {
  const std::lock_guard lock(mutex_);
  outbox_.started = event;
  WakeLocked();
}

void Generation::OnPromptLogprobs(std::vector<engine::TokenLogprobs>) {}

void Generation::OnToken(const engine::TokenEvent& event) {
  const std::lock_guard lock(mutex_);
  outbox_.tokens.push_back(event.token);
  if (!busy_since_) WakeLocked();  // else Resume does
}

void Generation::OnFinished(const engine::FinishedEvent& event) {
  const std::lock_guard lock(mutex_);
  outbox_.finished = event;
  WakeLocked();
}

// Under the lock, so that the pump cannot end this stream, and its owner destroy the pump, while
// the pump is still being called.
void Generation::WakeLocked() { context_.pump->Wake(shared_from_this()); }

void Generation::SetBusy() {
  const std::lock_guard lock(mutex_);
  busy_since_ = StreamPump::Clock::now();
}

bool Generation::Pump() {
  Outbox box;
  bool cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    if (busy_since_) return false;
    cancelled = cancelled_;
    box.started = std::exchange(outbox_.started, std::nullopt);
    if (!box.started) box.tokens.swap(outbox_.tokens);
    box.finished = outbox_.finished;
  }
  const std::optional<engine::FinishedEvent> finished = box.finished;
  if (!cancelled && Deliver(std::move(box))) return false;
  if (!finished) return false;
  Close(*finished, cancelled);
  return true;
}

// Tells the client the next thing, if there is one.
bool Generation::Deliver(Outbox box) {
  if (box.started) {
    detokenizer_.Prime(prompt_);
    SetBusy();
    client_->OnStarted({.prompt_token_ids = std::move(prompt_),
                        .cached_tokens = box.started->cached_tokens,
                        .seed = seed_});
    return true;
  }
  const bool complete = box.finished && box.finished->status.ok();
  GenerationDelta delta{.text = detokenizer_.Append(box.tokens), .token_ids = box.tokens};
  if (complete && !std::exchange(flushed_, true)) delta.text += detokenizer_.Finish();
  if (!delta.text.empty() || !delta.token_ids.empty()) {
    SetBusy();
    client_->OnDelta(std::move(delta));
    return true;
  }
  if (!complete || std::exchange(told_finished_, true)) return false;
  SetBusy();
  client_->OnFinished({.reason = box.finished->reason, .metrics = box.finished->metrics});
  return true;
}

void Generation::Close(const engine::FinishedEvent& finished, bool cancelled) {
  absl::Status status = finished.status;
  if (cancelled && status.ok()) status = absl::CancelledError("cancelled by the client");
  const engine::RequestMetrics& m = finished.metrics;
  spdlog::debug("request {}: {}, {} + {} tokens, first after {:.4f} s, decode {:.4f} s", id_,
                status.ok() ? "done" : status.ToString(), m.prompt_tokens, m.generated_tokens,
                m.time_to_first_token_seconds, m.decode_seconds);
  if (context_.access_log != nullptr) {
    const std::chrono::duration<double> total = StreamPump::Clock::now() - created_;
    context_.access_log->Append(
        {.front = context_.front,
         .request_id = id_,
         .status = status,
         .reason = cancelled ? engine::FinishReason::kCancelled : finished.reason,
         .total_seconds = total.count(),
         .metrics = m});
  }
  client_->OnClosed(status);
}

void Generation::Tick(StreamPump::Clock::time_point now) {
  {
    const std::lock_guard lock(mutex_);
    if (stalled_ || !busy_since_ || now - *busy_since_ < context_.write_timeout) return;
    stalled_ = true;
  }
  spdlog::warn("request {}: nothing read for {} ms, cancelled", id_,
               context_.write_timeout.count());
  Cancel();
  client_->OnStalled();
}

}  // namespace strata::server
