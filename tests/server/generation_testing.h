#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/mutex.h"
#include "gtest/gtest.h"
#include "server/base/unicode.h"
#include "server/generation/generation.h"
#include "tests/server/served_model.h"

namespace strata::testing {

// Records its calls. With `prompt_reader` it is ready for more at once, else after Resume.
class RecordingClient final : public server::GenerationClient {
 public:
  explicit RecordingClient(bool prompt_reader) : prompt_reader_(prompt_reader) {}

  void OnStarted(server::GenerationStarted event) override {
    const MutexLock lock(mutex_);
    started = std::move(event);
    Told("started");
  }
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> event) override {
    const MutexLock lock(mutex_);
    prompt_logprobs = std::move(event);
    Told("prompt logprobs");
  }
  void OnDelta(server::GenerationDelta delta) override {
    const MutexLock lock(mutex_);
    EXPECT_EQ(server::FindInvalidUtf8(delta.text), std::nullopt);
    Sequence& sequence = sequences[delta.index];
    EXPECT_EQ(sequence.finished.reason, engine::FinishReason::kNone);
    sequence.text += delta.text;
    sequence.ids.insert(sequence.ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    sequence.logprobs.insert(sequence.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    if (delta.index == 0) {
      text = sequence.text;
      ids = sequence.ids;
    }
    Told("delta");
  }
  void OnFinished(server::GenerationFinished event) override {
    const MutexLock lock(mutex_);
    sequences[event.index].finished = event;
    if (event.index == 0) finished = event;
    Told("finished");
  }
  void OnStalled() override {
    const MutexLock lock(mutex_);
    Told("stalled");
  }
  void OnClosed(const absl::Status& event) override {
    const MutexLock lock(mutex_);
    status = event;
    told.push_back("closed");
    changed_.NotifyAll();
  }

  void Attach(std::shared_ptr<server::Generation> generation) {
    const MutexLock lock(mutex_);
    generation_ = std::move(generation);
  }
  bool WaitFor(const std::string& what) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    const MutexLock lock(mutex_);
    while (std::find(told.begin(), told.end(), what) == told.end()) {
      if (!changed_.WaitUntil(mutex_, end)) return false;
    }
    return true;
  }

  std::ptrdiff_t NumTold(const std::string& what) {
    const MutexLock lock(mutex_);
    return std::count(told.begin(), told.end(), what);
  }

  struct Sequence {
    std::string text;
    std::vector<int32_t> ids;
    std::vector<engine::TokenLogprobs> logprobs;
    server::GenerationFinished finished;
  };

  std::vector<std::string> told;
  server::GenerationStarted started;
  std::vector<engine::TokenLogprobs> prompt_logprobs;
  std::map<int32_t, Sequence> sequences;  // by index
  std::string text;                       // of the first sequence, like the next two members
  std::vector<int32_t> ids;
  server::GenerationFinished finished;
  absl::Status status;

 private:
  void Told(const std::string& what) {
    told.push_back(what);
    changed_.NotifyAll();
    if (prompt_reader_) generation_->Resume();
  }

  const bool prompt_reader_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<server::Generation> generation_;
};

class GenerationTest : public ::testing::Test {
 protected:
  GenerationTest() : pump_(std::chrono::milliseconds(5)) {
    engine::EngineOptions options;
    options.model_dir = dir_.path();
    options.threads = 1;
    options.observer = &metrics_;
    auto engine = engine::Engine::Create(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    auto tokenizer = server::Tokenizer::Make(*(*engine::OpenModel(dir_.path()))->Tokenizer());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    context_ = {.engine = engine_.get(),
                .tokenizer = tokenizer_.get(),
                .pump = &pump_,
                .metrics = &metrics_};
  }

  std::shared_ptr<server::Generation> MustStart(server::GenerationRequest request,
                                                RecordingClient* client) {
    auto generation = server::Generation::Create(context_, std::move(request), client);
    EXPECT_TRUE(generation.ok()) << generation.status();
    client->Attach(*generation);
    EXPECT_TRUE((*generation)->Start().ok());
    return *generation;
  }

  std::string ErrorOf(server::GenerationRequest request) {
    RecordingClient client(/*prompt_reader=*/true);
    auto generation = server::Generation::Create(context_, std::move(request), &client);
    absl::Status status = generation.ok() ? (*generation)->Start() : generation.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(client.told.empty());
    return std::string(status.message());
  }

  static server::GenerationRequest Text(std::string text, int32_t max_tokens) {
    server::GenerationRequest request;
    request.prompt = std::move(text);
    request.sampling.max_tokens = max_tokens;
    request.fits_max_tokens = false;
    request.sampling.temperature = 0.0F;
    request.sampling.ignore_eos = true;
    return request;
  }

  TinyModelDir dir_;
  server::Metrics metrics_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<server::Tokenizer> tokenizer_;
  server::StreamPump pump_;
  server::GenerationContext context_;
};

}  // namespace strata::testing
