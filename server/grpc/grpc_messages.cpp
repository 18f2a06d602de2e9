#include "server/grpc/grpc_messages.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/serve/plan_report.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "google/protobuf/unknown_field_set.h"
#include "kvcache/base/error_details.h"

namespace strata::server {
namespace {

void FillMetrics(const engine::RequestMetrics& metrics, v1::RequestMetrics* message) {
  message->set_queue_seconds(metrics.queue_seconds);
  message->set_prefill_seconds(metrics.prefill_seconds);
  message->set_decode_seconds(metrics.decode_seconds);
  message->set_time_to_first_token_seconds(metrics.time_to_first_token_seconds);
  message->set_mean_inter_token_seconds(metrics.mean_inter_token_seconds);
  message->set_max_inter_token_seconds(metrics.max_inter_token_seconds);
  message->set_prompt_tokens(metrics.prompt_tokens);
  message->set_cached_tokens(metrics.cached_tokens);
  message->set_generated_tokens(metrics.generated_tokens);
  message->set_preemptions(metrics.preemptions);
  v1::CacheBytes* peak = message->mutable_peak_cache_bytes();
  peak->set_keys(metrics.peak_key_bytes);
  peak->set_values(metrics.peak_value_bytes);
  peak->set_scores(metrics.peak_score_bytes);
  message->set_plain_cache_bytes(metrics.plain_cache_bytes);
}

void FillPlan(const engine::PlanReport& plan, v1::SharingPlan* message) {
  message->set_bytes_per_token(plan.bytes_per_token);
  message->set_plain_bytes_per_token(plan.plain_bytes_per_token);
  message->set_ratio(plan.ratio);
  message->set_score_bytes_per_token(plan.score_bytes_per_token);
  message->set_stores_scores(plan.stores_scores);
  message->set_key_bytes_per_token(plan.key_bytes_per_token);
  message->set_value_bytes_per_token(plan.value_bytes_per_token);
  message->set_planes(static_cast<int32_t>(plan.planes.size()));
  for (const auto& layer : plan.layers) message->add_layers(layer.summary);
  message->set_json(engine::PlanReportJson(plan));
}

v1::FinishReason ReasonOf(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case engine::FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case engine::FinishReason::kTimeLimit:
      return v1::FINISH_REASON_TIME_LIMIT;
    case engine::FinishReason::kNone:
    case engine::FinishReason::kCancelled:
    case engine::FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void FillLogprobs(const engine::TokenLogprobs& logprobs, v1::TokenLogprobs* message) {
  message->set_logprob(logprobs.logprob);
  message->set_rank(logprobs.rank);
  for (const engine::TokenLogprob& likely : logprobs.top) {
    v1::TokenLogprob* top = message->add_top();
    top->set_token_id(likely.id);
    top->set_logprob(likely.logprob);
  }
}

void ParseSampling(const v1::GenerateRequest& message, GenerationRequest* request) {
  engine::SamplingParams& sampling = request->sampling;
  request->fits_max_tokens = !message.has_max_tokens();
  if (message.has_max_tokens()) sampling.max_tokens = message.max_tokens();
  if (message.has_min_tokens()) sampling.min_tokens = message.min_tokens();
  if (message.has_temperature()) sampling.temperature = message.temperature();
  if (message.has_top_k()) sampling.top_k = message.top_k();
  if (message.has_top_p()) sampling.top_p = message.top_p();
  if (message.has_min_p()) sampling.min_p = message.min_p();
  if (message.has_repetition_penalty()) sampling.repetition_penalty = message.repetition_penalty();
  if (message.has_frequency_penalty()) sampling.frequency_penalty = message.frequency_penalty();
  if (message.has_presence_penalty()) sampling.presence_penalty = message.presence_penalty();
  for (const auto& [id, bias] : message.logit_bias()) {
    sampling.logit_bias.push_back({.id = id, .bias = bias});
  }
  // A map has no order of its own.
  std::ranges::sort(sampling.logit_bias, {}, &engine::LogitBias::id);
  request->draws_seed = !message.has_seed();
  if (message.has_seed()) sampling.seed = message.seed();
  const auto& stop_ids = message.stop_token_ids();
  sampling.stop_ids.assign(stop_ids.begin(), stop_ids.end());
  const auto& allowed = message.allowed_token_ids();
  sampling.allowed_ids.assign(allowed.begin(), allowed.end());
  if (message.has_ignore_eos()) sampling.ignore_eos = message.ignore_eos();
  if (message.has_logprobs()) sampling.logprobs = message.logprobs();
  request->stop.assign(message.stop().begin(), message.stop().end());
  request->include_stop_string = message.include_stop_string();
  request->bad_words.assign(message.bad_words().begin(), message.bad_words().end());
}

void FillAttention(const std::vector<float>& rows, v1::TokenAttention* message) {
  message->mutable_probabilities()->Add(rows.begin(), rows.end());
}

void FillDefaults(const engine::SamplingDefaults& defaults, v1::SamplingDefaults* message) {
  if (defaults.temperature) message->set_temperature(*defaults.temperature);
  if (defaults.top_k) message->set_top_k(*defaults.top_k);
  if (defaults.top_p) message->set_top_p(*defaults.top_p);
  if (defaults.min_p) message->set_min_p(*defaults.min_p);
  if (defaults.repetition_penalty) message->set_repetition_penalty(*defaults.repetition_penalty);
  if (defaults.max_tokens) message->set_max_tokens(*defaults.max_tokens);
}

}  // namespace

absl::Status RefuseUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) {
    return InvalidField(message.GetDescriptor()->name(), "field ", unknown.field(0).number(),
                        " is not recognised");
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      RETURN_IF_ERROR(RefuseUnknownFields(reflection.GetMessage(message, field)));
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      RETURN_IF_ERROR(RefuseUnknownFields(reflection.GetRepeatedMessage(message, field, i)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GenerationRequest> ParseRequest(const v1::GenerateRequest& message,
                                               const engine::SamplingDefaults& defaults) {
  RETURN_IF_ERROR(RefuseUnknownFields(message));
  GenerationRequest request;
  request.sampling = defaults.Params();
  request.request_id = message.request_id();
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText:
      request.prompt = message.text();
      break;
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = message.token_ids().ids();
      request.prompt = std::vector<int32_t>(ids.begin(), ids.end());
      break;
    }
    case v1::GenerateRequest::kMessages:
      return InField("messages",
                     absl::UnimplementedError("chat templates are not built; give text"));
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  if (message.has_add_special_tokens()) request.add_special_tokens = message.add_special_tokens();
  if (message.has_skip_special_tokens()) {
    request.skip_special_tokens = message.skip_special_tokens();
  }
  if (message.has_truncate_prompt_tokens()) {
    request.truncate_prompt_tokens = message.truncate_prompt_tokens();
  }
  ParseSampling(message, &request);
  if (message.has_prompt_logprobs()) request.prompt_logprobs = message.prompt_logprobs();
  if (message.has_n()) request.n = message.n();
  if (message.has_priority()) request.priority = message.priority();
  if (message.has_time_limit_seconds()) request.time_limit_seconds = message.time_limit_seconds();
  for (const v1::AttentionHead& head : message.attention()) {
    request.attention.push_back({.layer = head.layer(), .head = head.head()});
  }
  request.bypass_prefix_cache = message.bypass_prefix_cache();
  request.cache_salt = message.cache_salt();
  return request;
}

void FillStarted(const GenerationStarted& started, v1::Started* message) {
  const auto& ids = started.prompt_token_ids;
  message->mutable_prompt_token_ids()->Add(ids.begin(), ids.end());
  message->set_cached_tokens(started.cached_tokens);
  message->set_seed(started.seed);
}

void FillPromptLogprobs(const std::vector<engine::TokenLogprobs>& logprobs,
                        v1::PromptLogprobs* message) {
  for (const engine::TokenLogprobs& token : logprobs) FillLogprobs(token, message->add_tokens());
}

void FillDelta(GenerationDelta delta, v1::Delta* message) {
  message->set_text(std::move(delta.text));
  message->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  for (const engine::TokenLogprobs& token : delta.logprobs) {
    FillLogprobs(token, message->add_logprobs());
  }
  for (const std::vector<float>& rows : delta.attention) {
    FillAttention(rows, message->add_attention());
  }
}

void FillFinished(const GenerationFinished& finished, v1::Finished* message) {
  message->set_reason(ReasonOf(finished.reason));
  FillMetrics(finished.metrics, message->mutable_metrics());
  message->set_stop_string(finished.stop_string);
  if (!finished.end_token) return;
  const engine::TokenEvent& end = *finished.end_token;
  message->set_end_token_id(end.token);
  if (end.logprobs) FillLogprobs(*end.logprobs, message->mutable_end_logprobs());
  if (!end.attention.empty()) FillAttention(end.attention, message->mutable_end_attention());
}

void FillModel(const engine::ModelInfo& model, v1::Model* message) {
  message->set_name(model.name);
  message->set_architecture(model.architecture);
  message->set_device(model.device);
  message->set_dtype(model.dtype);
  message->set_cache_dtype(model.plan.dtype);
  message->set_parameters(model.parameters);
  message->set_weight_bytes(model.weight_bytes);
  message->set_vocab_size(model.vocab_size);
  message->set_hidden_size(model.hidden_size);
  message->set_num_layers(model.plan.num_layers);
  message->set_num_query_heads(model.plan.num_query_heads);
  message->set_num_kv_heads(model.plan.num_kv_heads);
  message->set_head_dim(model.plan.head_dim);
  message->set_max_positions(model.max_positions);
  message->mutable_eos_token_ids()->Add(model.eos_ids.begin(), model.eos_ids.end());
  message->set_cache_bytes(model.cache_bytes);
  message->set_cache_tokens(model.cache_tokens);
  message->set_block_tokens(model.block_tokens);
  FillPlan(model.plan, message->mutable_plan());
  FillDefaults(model.defaults, message->mutable_default_sampling());
}

}  // namespace strata::server
