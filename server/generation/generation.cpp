#include "server/generation/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/base/error_details.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

constexpr std::chrono::milliseconds kLastMoment{20};  // before a deadline
constexpr size_t kMostLogged = 256;  // bytes of a refused request's text or message

std::string Cut(std::string text) {
  if (text.size() <= kMostLogged) return text;
  text.resize(kMostLogged);
  return text + "...";
}

}  // namespace

absl::Status AdmitCaller(const GenerationContext& context, std::string_view authorization,
                         std::shared_ptr<Caller>* caller) {
  return context.keys == nullptr ? absl::OkStatus() : context.keys->Admit(authorization, caller);
}

absl::Status CheckPromptTokens(const GenerationContext& context, int64_t tokens) {
  if (context.max_prompt_tokens == 0 || tokens <= context.max_prompt_tokens) {
    return absl::OkStatus();
  }
  return WithErrorCode(InvalidField("prompt", tokens, " tokens; this server takes at most ",
                                    context.max_prompt_tokens),
                       kContextLengthExceeded);
}

void RecordRefusal(const GenerationContext& context, const std::string& request_id,
                   const absl::Status& status, const std::string& key) {
  if (context.metrics != nullptr) context.metrics->CountRejection(status);
  if (context.access_log == nullptr) return;
  context.access_log->Append(
      {.front = context.front,
       .request_id = Cut(request_id),
       .key = key,
       .status = absl::Status(status.code(), Cut(std::string(status.message()))),
       .metrics = {}});
}

absl::Status CheckKey(const GenerationContext& context, const std::string& request_id,
                      std::string_view authorization) {
  absl::Status status = context.keys->Check(authorization);
  if (!status.ok()) RecordRefusal(context, request_id, status, /*key=*/"");
  return status;
}

absl::StatusOr<std::shared_ptr<Generation>> Generation::Create(const GenerationContext& context,
                                                               GenerationRequest request,
                                                               GenerationClient* client) {
  ASSIGN_OR_RETURN(auto stop_strings,
                   StopStrings::Create(std::move(request.stop), request.include_stop_string));
  if (request.skip_special_tokens) stop_strings.AddSpecialTokens(*context.tokenizer);
  TextOptions options = {.stop_strings = std::move(stop_strings),
                         .skip_special = request.skip_special_tokens,
                         .log_id = std::move(request.log_id),
                         .caller = std::move(request.caller)};
  ASSIGN_OR_RETURN(auto work, MakeEngineRequest(std::move(request), context.engine->model(),
                                                *context.tokenizer));
  if (options.log_id.empty()) options.log_id = work.id;
  RETURN_IF_ERROR(CheckPromptTokens(context, std::ssize(work.prompt)));
  return std::shared_ptr<Generation>(
      new Generation(context, std::move(work), std::move(options), client));
}

Generation::Generation(const GenerationContext& context, engine::Request request,
                       TextOptions options, GenerationClient* client)
    : context_(context),
      id_(request.id),
      prompt_tokens_(request.prompt.size()),
      seed_(request.sampling.seed),
      n_(request.n),
      min_tokens_(request.sampling.min_tokens),
      deadline_(request.deadline),
      stop_strings_(std::move(options.stop_strings)),
      skip_special_(options.skip_special),
      log_id_(std::move(options.log_id)),
      client_(client),
      request_(std::move(request)),
      caller_(std::move(options.caller)),
      prompt_(request_->prompt) {}

absl::Status Generation::Start() { return StartAll(context_, {shared_from_this()}); }

absl::Status Generation::StartAll(const GenerationContext& context,
                                  const std::vector<std::shared_ptr<Generation>>& generations) {
  std::vector<engine::Engine::Submission> submissions;
  for (const std::shared_ptr<Generation>& generation : generations) {
    submissions.push_back({*std::exchange(generation->request_, std::nullopt), generation});
  }
  return context.engine->Submit(std::move(submissions));
}

void Generation::Resume() {
  const MutexLock lock(mutex_);
  busy_since_.reset();
  Wake();
}

void Generation::Cancel() {
  {
    const MutexLock lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    if (outbox_.num_finished == n_) return;
  }
  // At its deadline a client hangs up too. In either order the engine gives the reason of the end.
  const bool expires = deadline_ && *deadline_ - engine::Request::Time::clock::now() < kLastMoment;
  if (!expires) context_.engine->Cancel(id_);
}

void Generation::OnStarted(const engine::StartedEvent& event) {
  const MutexLock lock(mutex_);
  outbox_.started = event;
  Wake();
}

void Generation::OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) {
  const MutexLock lock(mutex_);
  outbox_.prompt_logprobs = std::move(logprobs);
  Wake();
}

void Generation::OnToken(engine::TokenEvent event) {
  const MutexLock lock(mutex_);
  OutboxOf(event.index).tokens.push_back(std::move(event));
  if (!busy_since_) Wake();  // otherwise Resume wakes
}

void Generation::OnFinished(engine::FinishedEvent event) {
  const MutexLock lock(mutex_);
  SequenceOutbox& box = OutboxOf(event.index);
  box.finished = std::move(event);
  ++outbox_.num_finished;
  Wake();
}

Generation::SequenceOutbox& Generation::OutboxOf(int32_t index) {
  const auto place = static_cast<size_t>(index);
  if (place >= outbox_.sequences.size()) outbox_.sequences.resize(place + 1);
  return outbox_.sequences[place];
}

// Under the lock, so that the pump cannot end this stream, and its owner destroy the pump, while
// the pump is still being called.
void Generation::Wake() { context_.pump->Wake(shared_from_this()); }

void Generation::SetBusy() {
  const MutexLock lock(mutex_);
  busy_since_ = StreamPump::Clock::now();
}

// Called after the engine has taken the request: before that n may be any number.
void Generation::MakeSequences() {
  SequenceText text(context_.tokenizer, skip_special_, &stop_strings_, min_tokens_);
  text.Prime(prompt_);
  sequences_ = std::vector<Sequence>(static_cast<size_t>(n_), Sequence{.text = text});
}

bool Generation::Pump() {
  if (sequences_.empty()) MakeSequences();
  for (;;) {
    Parcel parcel;
    {
      const MutexLock lock(mutex_);
      if (busy_since_) return false;
      if (cancelled_ || !Take(&parcel)) {
        if (outbox_.num_finished < n_) return false;
        break;
      }
    }
    if (Deliver(std::move(parcel))) return false;
  }
  Close();
  return true;
}

// Takes the next output for the client; false if there is none.
bool Generation::Take(Parcel* parcel) {
  if (TakeStarted(parcel)) return true;
  for (size_t turn = 0; turn < sequences_.size(); ++turn) {
    const size_t index = (next_sequence_ + turn) % sequences_.size();
    if (index >= outbox_.sequences.size() || sequences_[index].closed) continue;
    SequenceOutbox& box = outbox_.sequences[index];
    if (box.tokens.empty() && !box.finished) continue;
    parcel->index = static_cast<int32_t>(index);
    parcel->sequence.tokens.swap(box.tokens);
    parcel->sequence.finished = box.finished;
    next_sequence_ = index + 1;
    return true;
  }
  return false;
}

bool Generation::TakeStarted(Parcel* parcel) {
  parcel->started = std::exchange(outbox_.started, std::nullopt);
  if (parcel->started) return true;
  parcel->prompt_logprobs = std::exchange(outbox_.prompt_logprobs, std::nullopt);
  return parcel->prompt_logprobs.has_value();
}

// Hands the parcel's output to the client; false if it has none.
bool Generation::Deliver(Parcel parcel) {
  if (parcel.started) {
    SetBusy();
    client_->OnStarted({.prompt_token_ids = std::move(prompt_),
                        .cached_tokens = parcel.started->cached_tokens,
                        .seed = seed_});
    return true;
  }
  if (parcel.prompt_logprobs) {
    SetBusy();
    client_->OnPromptLogprobs(*std::move(parcel.prompt_logprobs));
    return true;
  }
  return DeliverSequence(parcel.index, std::move(parcel.sequence));
}

bool Generation::DeliverSequence(int32_t index, SequenceOutbox box) {
  Sequence& sequence = sequences_[static_cast<size_t>(index)];
  SequenceText::Piece piece;
  sequence.text.Append(std::move(box.tokens), &piece);
  if (box.finished && box.finished->status.ok()) {
    if (box.finished->end_token) sequence.text.AppendEnd(box.finished->end_token->token, &piece);
    sequence.text.Finish(&piece);
  }
  if (sequence.text.stopped() && !box.finished && !std::exchange(sequence.told_to_stop, true)) {
    context_.engine->Stop(id_, index);
  }
  if (!piece.text.empty() || !piece.token_ids.empty()) {
    if (context_.metrics != nullptr) context_.metrics->CountGeneratedTokens(piece.token_ids.size());
    SetBusy();
    client_->OnDelta({.index = index,
                      .text = std::move(piece.text),
                      .token_ids = std::move(piece.token_ids),
                      .logprobs = std::move(piece.logprobs),
                      .attention = std::move(piece.attention)});
    return true;
  }
  if (!box.finished) return false;
  sequence.closed = true;
  const bool stopped = sequence.text.stopped();
  if (!stopped && !box.finished->status.ok()) {
    if (status_.ok()) status_ = box.finished->status;
    return false;
  }
  GenerationFinished finished = {.index = index,
                                 .reason = box.finished->reason,
                                 .metrics = box.finished->metrics,
                                 .end_token = std::move(box.finished->end_token)};
  if (stopped) {
    finished.reason = engine::FinishReason::kStop;
    finished.metrics.generated_tokens = sequence.text.num_tokens();
    finished.end_token.reset();
    finished.stop_string = sequence.text.stop_string();
  }
  if (index == 0) reason_ = finished.reason;
  SetBusy();
  client_->OnFinished(std::move(finished));
  return true;
}

void Generation::Close() {
  absl::Status status = status_;
  int32_t num_tokens = 0;
  for (const Sequence& sequence : sequences_) num_tokens += sequence.text.num_tokens();
  engine::RequestMetrics metrics;  // of the first sequence
  {
    const MutexLock lock(mutex_);
    metrics = outbox_.sequences[0].finished->metrics;
    if (cancelled_) {  // ends that were not delivered count too
      for (const SequenceOutbox& box : outbox_.sequences) {
        if (status.ok()) status = box.finished->status;
      }
      if (status.ok()) status = absl::CancelledError("cancelled by the client");
    }
  }
  spdlog::debug("request {}: {}, {} + {} tokens, first after {:.4f} s, decode {:.4f} s", id_,
                status.ok() ? "done" : status.ToString(), metrics.prompt_tokens, num_tokens,
                metrics.time_to_first_token_seconds, metrics.decode_seconds);
  LogEnd(status, metrics, num_tokens);
  caller_.reset();  // the client may ask again as soon as OnClosed is called
  client_->OnClosed(status);
}

// A line for the whole request: times and reason are the first sequence's.
void Generation::LogEnd(const absl::Status& status, engine::RequestMetrics metrics,
                        int32_t num_tokens) {
  if (context_.access_log == nullptr) return;
  engine::FinishReason reason = reason_;
  if (!status.ok()) {
    reason =
        absl::IsCancelled(status) ? engine::FinishReason::kCancelled : engine::FinishReason::kError;
  }
  metrics.generated_tokens = num_tokens;
  const std::chrono::duration<double> total = StreamPump::Clock::now() - created_;
  context_.access_log->Append({.front = context_.front,
                               .request_id = log_id_,
                               .key = caller_ ? caller_->key() : "",
                               .status = status,
                               .reason = reason,
                               .total_seconds = total.count(),
                               .metrics = metrics});
}

void Generation::Tick(StreamPump::Clock::time_point now) {
  {
    const MutexLock lock(mutex_);
    if (stalled_ || !busy_since_ || now - *busy_since_ < context_.write_timeout) return;
    stalled_ = true;
  }
  spdlog::warn("request {}: nothing read for {} ms, cancelled", id_,
               context_.write_timeout.count());
  Cancel();
  client_->OnStalled();
}

}  // namespace strata::server
