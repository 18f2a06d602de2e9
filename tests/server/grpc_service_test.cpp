#include "server/grpc/grpc_service.h"

#include <cmath>
#include <functional>
#include <future>
#include <numeric>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "tests/server/grpc_fixture.h"

namespace strata::testing::grpc_service_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The field named in the BadRequest among the details.
std::string BadField(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::BadRequest bad_request;
  if (!details.ParseFromString(status.error_details()) || details.details_size() < 1 ||
      !details.details(0).UnpackTo(&bad_request) || bad_request.field_violations_size() != 1) {
    return "no BadRequest";
  }
  EXPECT_EQ(details.code(), status.error_code());
  EXPECT_EQ(details.message(), status.error_message());
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.BadRequest");
  EXPECT_EQ(bad_request.field_violations(0).description(), status.error_message());
  return bad_request.field_violations(0).field();
}

TEST_F(GrpcServiceTest, GenerateStreams) {
  v1::GenerateRequest request = Greedy("hello", 30);
  request.set_request_id("first");
  request.set_seed(5);
  Stream stream(stub_.get(), request);
  const grpc::Status status = stream.Rest();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(stream.event.request_id(), "first");
  EXPECT_EQ(stream.event.index(), 0);
  EXPECT_EQ(stream.kinds.front(), v1::GenerateEvent::kStarted);
  EXPECT_EQ(stream.kinds.back(), v1::GenerateEvent::kFinished);
  EXPECT_EQ(std::count(stream.kinds.begin(), stream.kinds.end(), v1::GenerateEvent::kDelta) + 2,
            std::ssize(stream.kinds));
  EXPECT_EQ(stream.started.prompt_token_ids_size(), 5);
  EXPECT_EQ(stream.started.seed(), 5U);
  EXPECT_EQ(stream.ids.size(), 30U);
  EXPECT_EQ(stream.finished.reason(), v1::FINISH_REASON_LENGTH);
  const v1::RequestMetrics& metrics = stream.finished.metrics();
  EXPECT_EQ(metrics.prompt_tokens(), 5);
  EXPECT_EQ(metrics.generated_tokens(), 30);
  EXPECT_GT(metrics.time_to_first_token_seconds(), 0);
  EXPECT_GT(metrics.peak_cache_bytes().keys(), metrics.peak_cache_bytes().values());
  EXPECT_GT(metrics.plain_cache_bytes(), metrics.peak_cache_bytes().keys());
}

TEST_F(GrpcServiceTest, TextAndItsTokensGiveTheSameAnswer) {
  Stream text(stub_.get(), Greedy("once", 20));
  ASSERT_TRUE(text.Rest().ok());
  v1::GenerateRequest request = Greedy("", 20);
  *request.mutable_token_ids()->mutable_ids() = text.started.prompt_token_ids();
  Stream ids(stub_.get(), request);
  ASSERT_TRUE(ids.Rest().ok());
  EXPECT_EQ(ids.ids, text.ids);
  EXPECT_EQ(ids.text, text.text);
}

TEST_F(GrpcServiceTest, StopIdsEndTheText) {
  Stream whole(stub_.get(), Greedy("once", 20));
  ASSERT_TRUE(whole.Rest().ok());
  v1::GenerateRequest request = Greedy("once", 20);
  request.add_stop_token_ids(whole.ids[7]);
  Stream cut(stub_.get(), request);
  ASSERT_TRUE(cut.Rest().ok());
  EXPECT_EQ(cut.finished.reason(), v1::FINISH_REASON_STOP);
  const auto end = std::find(whole.ids.begin(), whole.ids.end(), whole.ids[7]);
  EXPECT_EQ(cut.ids, std::vector<int32_t>(whole.ids.begin(), end));
}

TEST_F(GrpcServiceTest, StopStringsEndTheText) {
  Stream whole(stub_.get(), Greedy("once", 20));
  ASSERT_TRUE(whole.Rest().ok());
  ASSERT_FALSE(whole.text.empty());
  for (const bool include : {false, true}) {
    v1::GenerateRequest request = Greedy("once", 20);
    request.add_stop(whole.text);
    request.set_include_stop_string(include);
    Stream cut(stub_.get(), request);
    ASSERT_TRUE(cut.Rest().ok());
    EXPECT_EQ(cut.text, include ? whole.text : "");
    EXPECT_EQ(cut.finished.reason(), v1::FINISH_REASON_STOP);
  }
}

TEST_F(GrpcServiceTest, LogprobsAndBias) {
  v1::GenerateRequest request = Greedy("once", 6);
  request.set_logprobs(2);
  (*request.mutable_logit_bias())[9] = 100;
  Stream stream(stub_.get(), request);
  std::vector<v1::TokenLogprobs> logprobs;
  while (stream.Next()) {
    stream.Collect();
    const v1::Delta& delta = stream.event.delta();
    EXPECT_EQ(delta.logprobs_size(), delta.token_ids_size());
    logprobs.insert(logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
  }
  EXPECT_EQ(stream.ids, std::vector<int32_t>(6, 9));
  ASSERT_EQ(logprobs.size(), 6U);
  for (const v1::TokenLogprobs& token : logprobs) {
    EXPECT_LT(token.logprob(), 0);
    EXPECT_GE(token.rank(), 1);
    ASSERT_EQ(token.top_size(), 2);
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
    EXPECT_GE(token.top(0).logprob(), token.logprob());
  }
}

TEST_F(GrpcServiceTest, AttentionComesWithEachToken) {
  v1::GenerateRequest request = Greedy("once", 6);
  request.add_attention()->set_head(1);
  request.add_attention()->set_layer(1);
  Stream stream(stub_.get(), request);
  std::vector<v1::TokenAttention> rows;
  while (stream.Next()) {
    stream.Collect();
    const v1::Delta& delta = stream.event.delta();
    EXPECT_EQ(delta.attention_size(), delta.token_ids_size());
    rows.insert(rows.end(), delta.attention().begin(), delta.attention().end());
  }
  EXPECT_TRUE(stream.reader->Finish().ok());
  ASSERT_EQ(rows.size(), 6U);
  int positions = stream.started.prompt_token_ids_size();
  for (const v1::TokenAttention& row : rows) {
    ASSERT_EQ(row.probabilities_size(), 2 * positions);
    const auto begin = row.probabilities().begin();
    EXPECT_NEAR(std::accumulate(begin, begin + positions, 0.0), 1, 1e-5);
    EXPECT_NEAR(std::accumulate(begin + positions, row.probabilities().end(), 0.0), 1, 1e-5);
    ++positions;
  }
  request.add_attention()->set_layer(99);
  EXPECT_EQ(StatusOf(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GrpcServiceTest, BadInputNamesItsField) {
  struct Case {
    const char* field;
    std::function<void(v1::GenerateRequest*)> spoil;
  };
  const float nan = std::nanf("");
  const std::vector<Case> cases = {
      {"prompt", [](auto* r) { r->clear_text(); }},
      {"prompt", [](auto* r) { r->set_text(""); }},
      {"prompt", [](auto* r) { r->mutable_token_ids(); }},
      {"prompt", [](auto* r) { r->mutable_token_ids()->add_ids(kTinyVocab); }},
      {"prompt", [](auto* r) { r->mutable_token_ids()->add_ids(-1); }},
      {"prompt", [](auto* r) { r->set_text(std::string(kTinyPositions, 'a')); }},
      {"request_id", [](auto* r) { r->set_request_id(std::string(129, 'x')); }},
      {"max_tokens", [](auto* r) { r->set_max_tokens(-1); }},
      {"max_tokens", [](auto* r) { r->set_max_tokens(-5); }},
      {"max_tokens", [](auto* r) { r->set_max_tokens(kTinyPositions); }},
      {"temperature", [](auto* r) { r->set_temperature(-1); }},
      {"temperature", [nan](auto* r) { r->set_temperature(nan); }},
      {"top_k", [](auto* r) { r->set_top_k(-1); }},
      {"top_p", [](auto* r) { r->set_top_p(-0.5F); }},
      {"top_p", [nan](auto* r) { r->set_top_p(nan); }},
      {"min_p", [](auto* r) { r->set_min_p(1.5F); }},
      {"stop_token_ids", [](auto* r) { r->add_stop_token_ids(kTinyVocab); }},
      {"min_tokens", [](auto* r) { r->set_min_tokens(4); }},
      {"repetition_penalty", [nan](auto* r) { r->set_repetition_penalty(nan); }},
      {"frequency_penalty", [](auto* r) { r->set_frequency_penalty(-2.1F); }},
      {"presence_penalty", [](auto* r) { r->set_presence_penalty(2.1F); }},
      {"logit_bias", [](auto* r) { (*r->mutable_logit_bias())[kTinyVocab] = 1; }},
      {"logit_bias", [nan](auto* r) { (*r->mutable_logit_bias())[1] = nan; }},
      {"stop", [](auto* r) { r->add_stop(std::string(257, 'x')); }},
      {"allowed_token_ids", [](auto* r) { r->add_allowed_token_ids(kTinyVocab); }},
      {"bad_words", [](auto* r) { r->add_bad_words("  "); }},
      {"bad_words", [](auto* r) { r->add_bad_words(std::string(257, 'x')); }},
      {"truncate_prompt_tokens", [](auto* r) { r->set_truncate_prompt_tokens(0); }},
      {"truncate_prompt_tokens", [](auto* r) { r->set_truncate_prompt_tokens(-2); }},
      {"truncate_prompt_tokens",
       [](auto* r) { r->set_truncate_prompt_tokens(kTinyPositions + 1); }},
      {"logprobs", [](auto* r) { r->set_logprobs(-1); }},
      {"prompt_logprobs", [](auto* r) { r->set_prompt_logprobs(21); }},
      {"n", [](auto* r) { r->set_n(0); }},
      {"priority", [](auto* r) { r->set_priority(-101); }},
      {"time_limit_seconds", [](auto* r) { r->set_time_limit_seconds(-1); }},
      {"cache_salt", [](auto* r) { r->set_cache_salt(std::string(257, 's')); }},
  };
  for (const Case& bad : cases) {
    v1::GenerateRequest request = Greedy("abc", 3);
    bad.spoil(&request);
    const grpc::Status status = StatusOf(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bad.field;
    EXPECT_EQ(BadField(status), bad.field) << status.error_message();
    EXPECT_EQ(status.error_message().find('\n'), std::string::npos);
  }
  EXPECT_TRUE(StatusOf(Greedy("abc", 3)).ok());  // the server lives on
  EXPECT_EQ(BlocksUsedWhenIdle(), 0);
}

TEST_F(GrpcServiceTest, ChatIsUnimplementedAndHugePromptsAreRefused) {
  v1::GenerateRequest chat = Greedy("", 3);
  chat.mutable_messages()->add_messages()->set_content("hi");
  EXPECT_EQ(StatusOf(chat).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(StatusOf(Greedy(std::string(2 << 20, 'a'), 3)).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(StatusOf(Greedy("abc", 3)).ok());
}

TEST_F(GrpcServiceTest, AnIdInFlightIsTaken) {
  v1::GenerateRequest request = Greedy("abc", 500);
  request.set_request_id("same");
  Stream first(stub_.get(), request);
  ASSERT_TRUE(first.Next());
  EXPECT_EQ(StatusOf(request).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(first.Rest().ok());
}

TEST_F(GrpcServiceTest, AFullQueueSaysWhenToRetry) {
  engine::EngineOptions options;
  options.max_running = 1;
  options.max_queue = 1;
  Serve(options);
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 16; ++i) {
    streams.push_back(std::make_unique<Stream>(stub_.get(), Greedy("abc", 500)));
  }
  grpc::Status refused;
  for (auto& stream : streams) {
    const grpc::Status status = stream->Rest();
    if (!status.ok()) refused = status;
  }
  ASSERT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(refused.error_details()));
  google::rpc::RetryInfo retry;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  const double delay = static_cast<double>(retry.retry_delay().seconds()) +
                       1e-9 * static_cast<double>(retry.retry_delay().nanos());
  EXPECT_GE(delay, 0.1);
  EXPECT_LE(delay, 60);
}

TEST_F(GrpcServiceTest, CancelAndDeadlineFreeTheBlocks) {
  const v1::GenerateRequest lasting = Lasting();
  Stream cancelled(stub_.get(), lasting);
  ASSERT_TRUE(cancelled.Next());
  ASSERT_TRUE(cancelled.Next());
  cancelled.context.TryCancel();
  EXPECT_EQ(cancelled.Rest().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(BlocksUsedWhenIdle(), 0);

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(20));
  const auto reader = stub_->Generate(&context, Greedy("abc", 500));
  v1::GenerateEvent event;
  int32_t generated = 0;
  while (reader->Read(&event)) generated += event.delta().token_ids_size();
  const grpc::Status status = reader->Finish();
  if (!status.ok()) {  // a very fast machine may finish in time
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  EXPECT_EQ(BlocksUsedWhenIdle(), 0);
  EXPECT_TRUE(StatusOf(Greedy("abc", 3)).ok());
}

TEST_F(GrpcServiceTest, ARefusedCallThatIsCancelledLeavesItsIdsOwnerAlone) {
  auto request = Greedy("abc", 400);
  request.set_request_id("owner");
  for (int i = 0; i < 60; ++i) {
    Stream owner(stub_.get(), request);
    ASSERT_TRUE(owner.Next());
    {
      Stream refused(stub_.get(), request);
      std::this_thread::sleep_for(std::chrono::microseconds(i * 10));
      refused.context.TryCancel();
      refused.Rest();
    }
    const grpc::Status status = owner.Rest();
    ASSERT_TRUE(status.ok()) << i << ": " << status.error_message();
  }
}

TEST_F(GrpcServiceTest, ADeadlineCenturiesAwayIsNone) {
  grpc::ClientContext context;
  context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_REALTIME),
                                    gpr_time_from_hours(int64_t{400} * 366 * 24, GPR_TIMESPAN)));
  v1::GenerateEvent event;
  const auto reader = stub_->Generate(&context, Greedy("abc", 3));
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(GrpcServiceTest, ClientsThatLeaveAtAnyMomentDoNoHarm) {
  for (int i = 0; i < 100; ++i) {
    Stream stream(stub_.get(), Greedy("abc", 1 + i % 7));
    for (int messages = i % 4; messages > 0; --messages) stream.Next();
    stream.context.TryCancel();
    stream.Rest();
  }
  EXPECT_EQ(BlocksUsedWhenIdle(), 0);
  EXPECT_TRUE(StatusOf(Greedy("abc", 3)).ok());
}

TEST_F(GrpcServiceTest, ManyStreamsAtOnceGiveWhatEachGivesAlone) {
  constexpr int kStreams = 64;
  std::vector<std::vector<int32_t>> together(kStreams);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kStreams; ++i) {
      threads.emplace_back([this, i, &together] {
        Stream stream(stub_.get(), Greedy("prompt " + std::to_string(i), 16));
        if (i % 8 == 7) {  // some leave early
          stream.Next();
          stream.context.TryCancel();
        }
        stream.Rest();
        together[static_cast<size_t>(i)] = stream.ids;
      });
    }
  }
  EXPECT_EQ(BlocksUsedWhenIdle(), 0);
  for (int i = 0; i < kStreams; ++i) {
    if (i % 8 == 7) continue;
    Stream alone(stub_.get(), Greedy("prompt " + std::to_string(i), 16));
    EXPECT_TRUE(alone.Rest().ok());
    EXPECT_EQ(alone.ids, together[static_cast<size_t>(i)]) << i;
  }
}

TEST_F(GrpcServiceTest, ModelAndTokens) {
  grpc::ClientContext model_context;
  v1::Model model;
  ASSERT_TRUE(stub_->GetModel(&model_context, {}, &model).ok());
  EXPECT_EQ(model.vocab_size(), kTinyVocab);
  EXPECT_EQ(model.max_positions(), kTinyPositions);
  EXPECT_EQ(model.num_layers(), 4);
  EXPECT_DOUBLE_EQ(model.plan().ratio(), 5.0 / 8.0);
  EXPECT_EQ(model.plan().layers_size(), 4);
  EXPECT_TRUE(nlohmann::json::accept(model.plan().json()));

  grpc::ClientContext tokenize_context;
  v1::TokenizeRequest text;
  text.set_text("caf\xC3\xA9");
  v1::TokenizeResponse ids;
  ASSERT_TRUE(stub_->Tokenize(&tokenize_context, text, &ids).ok());
  EXPECT_EQ(ids.token_ids_size(), 5);

  grpc::ClientContext detokenize_context;
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = ids.token_ids();
  v1::DetokenizeResponse answer;
  ASSERT_TRUE(stub_->Detokenize(&detokenize_context, back, &answer).ok());
  EXPECT_EQ(answer.text(), text.text());

  grpc::ClientContext half_context;
  back.mutable_token_ids()->RemoveLast();
  ASSERT_TRUE(stub_->Detokenize(&half_context, back, &answer).ok());
  EXPECT_EQ(answer.text(), "caf\xEF\xBF\xBD");

  grpc::ClientContext bad_context;
  back.add_token_ids(-3);
  const grpc::Status status = stub_->Detokenize(&bad_context, back, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(BadField(status), "token_ids");
}

TEST_F(GrpcServiceTest, HealthAndReflection) {
  using grpc::health::v1::HealthCheckResponse;
  EXPECT_EQ(Health(""), HealthCheckResponse::SERVING);
  EXPECT_EQ(Health("strata.v1.Inference"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Health("no.such.Service"), HealthCheckResponse::SERVICE_UNKNOWN);

  // list_services, field 7 of ServerReflectionRequest, as bytes: its stubs are not packaged.
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::GenericStub generic(channel_);
  const auto call = generic.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  ASSERT_TRUE(wait());
  const grpc::Slice question("\x3a\x01*");
  call->Write(grpc::ByteBuffer(&question, 1), nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer bytes;
  call->Read(&bytes, nullptr);
  ASSERT_TRUE(wait());
  grpc::Slice answer;
  ASSERT_TRUE(bytes.DumpToSingleSlice(&answer).ok());
  const std::string services(answer.begin(), answer.end());
  EXPECT_NE(services.find("strata.v1.Inference"), std::string::npos);
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
}

TEST_F(GrpcServiceTest, DrainLetsRunningRequestsFinish) {
  Stream running(stub_.get(), Greedy("abc", 500));
  ASSERT_TRUE(running.Next());
  auto drained = std::async(std::launch::async, [this] { server_->Drain(seconds(60)); });
  using grpc::health::v1::HealthCheckResponse;
  HealthCheckResponse::ServingStatus health = HealthCheckResponse::SERVING;
  // NOT_SERVING while it drains or, after a quick drain, no server at all.
  while (health == HealthCheckResponse::SERVING) health = Health("");
  EXPECT_TRUE(running.Rest().ok());
  EXPECT_EQ(running.ids.size(), 500U);
  drained.get();
  EXPECT_EQ(StatusOf(Greedy("abc", 3)).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServiceTest, WhatTheDrainLimitCutsEndsUnavailable) {
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 8; ++i) {
    streams.push_back(std::make_unique<Stream>(stub_.get(), Lasting()));
    ASSERT_TRUE(streams.back()->Next());
  }
  server_->Drain(milliseconds(0));
  int unavailable = 0;
  for (auto& stream : streams) {
    const grpc::Status status = stream->Rest();
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) ++unavailable;
  }
  EXPECT_GT(unavailable, 0);
}

TEST_F(GrpcServiceTest, APortInUseIsOneLine) {
  const auto second = server::Server::Start({.model_dir = dir_.path(),
                                             .engine = {},
                                             .grpc_address = server_->address(),
                                             .http_address = "",
                                             .log_level = "info"});
  EXPECT_EQ(second.status().message(),
            "cannot listen on " + server_->address() + ": Address already in use");
}

}  // namespace
}  // namespace strata::testing::grpc_service_test
