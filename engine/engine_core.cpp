#include "engine/engine_core.h"

#include <algorithm>

#include "engine/errors.h"
#include "engine/request_check.h"

namespace strata::engine {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Sequence::Time from, Sequence::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Create(const EngineOptions& options) {
  auto model = LoadModel(options);
  if (!model.ok()) return model.status();
  return std::unique_ptr<EngineCore>(
      new EngineCore(*std::move(model), {.max_batch_tokens = options.max_batch_tokens,
                                         .max_prefill_chunk = options.max_prefill_chunk,
                                         .max_running = options.max_running}));
}

EngineCore::EngineCore(LoadedModel model, const SchedulerOptions& options)
    : model_(std::move(model)), scheduler_(options, model_.cache.get()) {}

absl::Status EngineCore::Validate(const Request& request) const {
  if (auto status = CheckRequest(request, model_.info); !status.ok()) return status;
  if (request.n != 1) return Unimplemented("n: ", request.n, " is not 1, all this server makes");
  if (request.prompt_logprobs) return Unimplemented("prompt_logprobs: this server has none");
  return absl::OkStatus();
}

void EngineCore::Add(Request request, std::shared_ptr<RequestSink> sink, Sequence::Time submitted) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = std::move(request.id);
  sequence->sink = std::move(sink);
  sequence->sampling = std::move(request.sampling);
  sequence->history = TokenHistory(sequence->sampling, request.prompt);
  sequence->prompt_size = static_cast<int32_t>(request.prompt.size());
  sequence->tokens = std::move(request.prompt);
  sequence->submitted = submitted;
  scheduler_.Enqueue(std::move(sequence));
}

bool EngineCore::Finish(std::string_view id, FinishReason reason, const absl::Status& status) {
  std::unique_ptr<Sequence> sequence = scheduler_.Remove(id);
  if (sequence == nullptr) return false;
  const std::shared_ptr<RequestSink> sink = sequence->sink;
  const FinishedEvent event = {
      .index = 0, .reason = reason, .status = status, .metrics = MetricsOf(*sequence)};
  if (release_hook_) release_hook_(sequence->id);
  sequence.reset();  // its blocks are free before anybody hears of the end
  sink->OnFinished(event);
  return true;
}

void EngineCore::FinishAll(FinishReason reason, const absl::Status& status) {
  while (!scheduler_.running().empty()) {
    Finish(std::string(scheduler_.running().front()->id), reason, status);
  }
  while (!scheduler_.waiting().empty()) {
    Finish(std::string(scheduler_.waiting().front()->id), reason, status);
  }
}

void EngineCore::Admit() {
  const Sequence::Time now = Clock::now();
  for (Sequence* sequence : scheduler_.Admit()) {
    sequence->started = now;
    sequence->sink->OnStarted({.prompt_tokens = sequence->prompt_size, .cached_tokens = 0});
  }
}

void EngineCore::Step() {
  Admit();
  const std::vector<ScheduledRange> plan = scheduler_.Next();
  if (plan.empty()) return;
  Flatten(plan);
  const auto logits = model_.decoder->Forward(batch_, model_.cache->arena());
  if (logits.ok()) {
    Commit(plan, *logits);
    return;
  }
  for (const ScheduledRange& range : plan) {
    Finish(std::string(range.sequence->id), FinishReason::kError,
           absl::InternalError(logits.status().message()));
  }
}

void EngineCore::Flatten(const std::vector<ScheduledRange>& plan) {
  batch_.Clear();
  for (const auto& [sequence, begin, end] : plan) {
    batch_.sequences.push_back({.first_row = batch_.num_rows(),
                                .num_rows = end - begin,
                                .first_position = begin,
                                .block_table = sequence->blocks.ids().data()});
    for (int32_t position = begin; position < end; ++position) {
      batch_.token_ids.push_back(sequence->tokens[static_cast<size_t>(position)]);
      batch_.positions.push_back(position);
      batch_.slots.push_back(model_.cache->Slot(sequence->blocks, position));
    }
    if (end == sequence->size()) {
      batch_.logit_rows.push_back(static_cast<int32_t>(batch_.num_rows() - 1));
    }
  }
}

void EngineCore::Commit(const std::vector<ScheduledRange>& plan, std::span<const float> logits) {
  const Sequence::Time now = Clock::now();
  const auto vocab_size = static_cast<size_t>(model_.info.vocab_size);
  for (const ScheduledRange& range : plan) {
    Sequence& sequence = *range.sequence;
    sequence.computed = range.end;
    if (range.end != sequence.size()) continue;  // more of its prompt to come
    const std::span<const float> row = logits.first(vocab_size);
    logits = logits.subspan(vocab_size);
    if (logits_hook_) logits_hook_(sequence, row);
    const double uniform =
        UniformAt(sequence.sampling.seed, 0, static_cast<uint64_t>(sequence.size()));
    Accept(sequence,
           sampler_.Sample(row, sequence.sampling,
                           {.history = sequence.history,
                            .eos_ids = model_.info.eos_ids,
                            .num_generated = sequence.num_generated(),
                            .uniform = uniform}),
           now);
  }
}

void EngineCore::Accept(Sequence& sequence, SampledToken sampled, Sequence::Time now) {
  const int32_t token = sampled.token;
  if (EndsOutput(sequence, token)) {
    Finish(std::string(sequence.id), FinishReason::kStop, absl::OkStatus());
    return;
  }
  if (sequence.num_generated() == 0) {
    sequence.first_token = now;
  } else {
    sequence.max_inter_token_seconds =
        std::max(sequence.max_inter_token_seconds, Seconds(sequence.last_token, now));
  }
  sequence.last_token = now;
  sequence.sink->OnToken({.index = 0,
                          .token = token,
                          .position = sequence.size(),
                          .logprobs = std::move(sampled.logprobs)});
  sequence.tokens.push_back(token);
  sequence.history.AddOutput(token);
  if (sequence.num_generated() == sequence.sampling.max_tokens) {
    Finish(std::string(sequence.id), FinishReason::kLength, absl::OkStatus());
  }
}

bool EngineCore::EndsOutput(const Sequence& sequence, int32_t token) const {
  const auto contains = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return (!sequence.sampling.ignore_eos && contains(model_.info.eos_ids)) ||
         contains(sequence.sampling.stop_ids);
}

RequestMetrics EngineCore::MetricsOf(const Sequence& sequence) const {
  const Sequence::Time now = Clock::now();
  const bool started = sequence.started != Sequence::Time();
  const int32_t generated = sequence.num_generated();
  RequestMetrics metrics;
  metrics.queue_seconds = Seconds(sequence.submitted, started ? sequence.started : now);
  if (started) {
    metrics.prefill_seconds = Seconds(sequence.started, generated > 0 ? sequence.first_token : now);
  }
  if (generated > 0) {
    metrics.time_to_first_token_seconds = Seconds(sequence.submitted, sequence.first_token);
    metrics.decode_seconds = Seconds(sequence.first_token, sequence.last_token);
  }
  if (generated > 1) metrics.mean_inter_token_seconds = metrics.decode_seconds / (generated - 1);
  metrics.max_inter_token_seconds = sequence.max_inter_token_seconds;
  metrics.prompt_tokens = sequence.prompt_size;
  metrics.generated_tokens = generated;

  const kvcache::PlaneMap& planes = model_.cache->planes();
  const size_t tokens = static_cast<size_t>(model_.cache->BlocksFor(sequence.computed)) *
                        static_cast<size_t>(planes.block_tokens());
  metrics.peak_key_bytes = tokens * planes.key_bytes_per_token();
  metrics.peak_value_bytes = tokens * planes.value_bytes_per_token();
  metrics.plain_cache_bytes = tokens * planes.plain_bytes_per_token();
  return metrics;
}

absl::Status EngineCore::CheckIntegrity() const { return scheduler_.CheckIntegrity(); }

}  // namespace strata::engine
