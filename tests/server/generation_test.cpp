#include "server/generation/generation.h"

#include <algorithm>
#include <atomic>
#include <set>

#include "gtest/gtest.h"
#include "server/base/unicode.h"
#include "tests/server/generation_testing.h"
#include "tests/server/metrics_text.h"

namespace strata::testing::generation_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A stream that ends at its first Pump, and is woken again during it.
class ShortStream final : public server::StreamPump::Stream,
                          public std::enable_shared_from_this<ShortStream> {
 public:
  explicit ShortStream(server::StreamPump* pump) : pump_(pump) {}
  bool Pump() override {
    pump_->Wake(shared_from_this());
    ++pumped;
    return true;
  }
  void Tick(server::StreamPump::Clock::time_point /*now*/) override {}

  std::atomic<int> pumped = 0;

 private:
  server::StreamPump* const pump_;
};

TEST(StreamPumpTest, AStreamThatHasEndedIsLeftAlone) {
  server::StreamPump pump(milliseconds(1));
  const auto first = std::make_shared<ShortStream>(&pump);
  pump.Wake(first);
  ASSERT_TRUE(pump.WaitIdle(seconds(60)));
  const auto second = std::make_shared<ShortStream>(&pump);  // after the first's second wake
  pump.Wake(second);
  ASSERT_TRUE(pump.WaitIdle(seconds(60)));
  EXPECT_EQ(first->pumped, 1);
}

TEST_F(GenerationTest, TellsInOrderAndDetokenizes) {
  RecordingClient client(/*prompt_reader=*/true);
  const auto generation = MustStart(Text("abc", 40), &client);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_TRUE(client.status.ok()) << client.status;
  EXPECT_EQ(client.told.front(), "started");
  EXPECT_EQ(client.told[client.told.size() - 2], "finished");
  EXPECT_EQ(client.started.prompt_token_ids, (std::vector<int32_t>{'a' + 1, 'b' + 1, 'c' + 1}));
  EXPECT_EQ(client.ids.size(), 40U);
  EXPECT_EQ(client.finished.reason, engine::FinishReason::kLength);
  EXPECT_EQ(client.finished.metrics.generated_tokens, 40);
  std::vector<int32_t> tokens;  // ids that are tokens
  for (const int32_t id : client.ids) {
    if (id < tokenizer_->vocab_size()) tokens.push_back(id);
  }
  auto bytes = tokenizer_->Decode(tokens, /*skip_special=*/true);
  ASSERT_TRUE(bytes.ok());
  std::string expected;
  server::TakeValidUtf8(/*at_end=*/true, &*bytes, &expected);
  EXPECT_EQ(client.text, expected);
  EXPECT_TRUE(pump_.WaitIdle(seconds(10)));
}

TEST_F(GenerationTest, SlowReaderGetsMergedDeltas) {
  RecordingClient prompt(/*prompt_reader=*/true);
  MustStart(Text("xyz", 100), &prompt);
  RecordingClient slow(/*prompt_reader=*/false);
  const auto generation = MustStart(Text("xyz", 100), &slow);
  ASSERT_TRUE(prompt.WaitFor("closed"));
  ASSERT_TRUE(slow.WaitFor("started"));
  engine_->Shutdown(seconds(60));  // all tokens are made
  generation->Resume();
  ASSERT_TRUE(slow.WaitFor("delta"));
  generation->Resume();
  ASSERT_TRUE(slow.WaitFor("finished"));
  generation->Resume();
  ASSERT_TRUE(slow.WaitFor("closed"));
  EXPECT_EQ(slow.told, (std::vector<std::string>{"started", "delta", "finished", "closed"}));
  EXPECT_EQ(slow.ids, prompt.ids);
  EXPECT_EQ(slow.text, prompt.text);
}

TEST_F(GenerationTest, ReaderThatStandsStillIsCancelled) {
  context_.write_timeout = milliseconds(30);
  RecordingClient client(/*prompt_reader=*/false);
  const auto generation = MustStart(Text("abc", 400), &client);
  ASSERT_TRUE(client.WaitFor("stalled"));
  generation->Resume();
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client.told, (std::vector<std::string>{"started", "stalled", "closed"}));
  engine_->Shutdown(seconds(60));
  EXPECT_EQ(engine_->load().blocks_used, 0);
}

TEST_F(GenerationTest, CancelEndsItAndFreesItsBlocks) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("abc", 500);
  request.n = 16;
  const auto generation = MustStart(request, &client);
  ASSERT_TRUE(client.WaitFor("delta"));
  generation->Cancel();
  generation->Cancel();
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.status.code(), absl::StatusCode::kCancelled);
  EXPECT_LT(client.ids.size(), 500U);
  engine_->Shutdown(seconds(60));
  EXPECT_EQ(engine_->load().blocks_used, 0);
}

TEST_F(GenerationTest, AClientThatLeavesAtItsDeadlineHasMetTheDeadline) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("abc", 500);
  request.deadline = std::chrono::steady_clock::now() + milliseconds(10);
  MustStart(request, &client)->Cancel();
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.status.code(), absl::StatusCode::kDeadlineExceeded) << client.status;
  EXPECT_EQ(ValueOf(metrics_.Render(), "strata_sequences_finished_total{reason=\"deadline\"}"),
            "1");

  RecordingClient early(/*prompt_reader=*/true);
  request.deadline = std::chrono::steady_clock::now() + seconds(60);
  MustStart(request, &early)->Cancel();
  ASSERT_TRUE(early.WaitFor("closed"));
  EXPECT_EQ(early.status.code(), absl::StatusCode::kCancelled) << early.status;
}

TEST_F(GenerationTest, HoweverCancelMeetsTheEndItClosesOnce) {
  for (int i = 0; i < 200; ++i) {
    RecordingClient client(/*prompt_reader=*/true);
    const auto generation = MustStart(Text("abc", 1 + i % 5), &client);
    ASSERT_TRUE(i % 2 == 0 || client.WaitFor("delta"));
    generation->Cancel();
    ASSERT_TRUE(client.WaitFor("closed"));
    ASSERT_TRUE(pump_.WaitIdle(seconds(60)));
    ASSERT_EQ(std::count(client.told.begin(), client.told.end(), "closed"), 1);
  }
}

TEST_F(GenerationTest, DrawsIdAndSeedAndReturnsThem) {
  std::set<std::string> ids;
  std::set<uint64_t> seeds;
  for (int i = 0; i < 8; ++i) {
    RecordingClient client(/*prompt_reader=*/true);
    const auto generation = MustStart(Text("a", 1), &client);
    ASSERT_TRUE(client.WaitFor("closed"));
    ids.insert(generation->id());
    seeds.insert(client.started.seed);
  }
  EXPECT_EQ(ids.size(), 8U);
  EXPECT_EQ(seeds.size(), 8U);

  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("a", 1);
  request.request_id = "mine";
  request.sampling.seed = 7;
  request.draws_seed = false;
  EXPECT_EQ(MustStart(request, &client)->id(), "mine");
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.started.seed, 7U);
}

TEST_F(GenerationTest, DefaultMaxTokensIsCutToWhatFits) {
  for (const auto& [prompt, expected] : std::vector<std::pair<size_t, size_t>>{
           {3, 256}, {kTinyPositions - 40, 40}, {kTinyPositions - 1, 1}}) {
    RecordingClient client(/*prompt_reader=*/true);
    server::GenerationRequest request = Text(std::string(prompt, 'a'), 256);
    request.fits_max_tokens = true;
    MustStart(std::move(request), &client);
    ASSERT_TRUE(client.WaitFor("closed"));
    EXPECT_TRUE(client.status.ok()) << client.status;
    EXPECT_EQ(client.ids.size(), expected);
  }
}

TEST_F(GenerationTest, DefaultMaxTokensIsCutToWhatFitsNTimes) {
  engine::EngineOptions options;
  options.model_dir = dir_.path();
  options.threads = 1;
  options.block_tokens = 16;
  options.cache_bytes = size_t{100} * 16 * 640;  // 100 blocks
  auto engine = engine::Engine::Create(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  context_.engine = engine->get();
  ASSERT_EQ(context_.engine->model().cache_tokens, 1600);
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("abc", 256);
  request.fits_max_tokens = true;
  request.n = 64;  // a block each
  MustStart(std::move(request), &client);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_TRUE(client.status.ok()) << client.status;
  ASSERT_EQ(client.sequences.size(), 64U);
  // The last token takes no room.
  for (const auto& [index, sequence] : client.sequences) EXPECT_EQ(sequence.ids.size(), 14U);
}

TEST_F(GenerationTest, RefusesBadInputNamingTheField) {
  EXPECT_EQ(ErrorOf({}), "prompt: none; give text or token_ids");
  EXPECT_EQ(ErrorOf(Text("", 1)), "prompt: empty text; at least one character is needed");
  EXPECT_EQ(ErrorOf(Text("ab\xFF", 1)).rfind("prompt: ", 0), 0U);
  server::GenerationRequest long_id = Text("a", 1);
  long_id.request_id = std::string(129, 'x');
  EXPECT_EQ(ErrorOf(long_id), "request_id: 129 bytes; at most 128");
  server::GenerationRequest two_lines = Text("a", 1);
  two_lines.request_id = "a\nb";
  EXPECT_EQ(ErrorOf(two_lines),
            "request_id: byte 1 is the control character 0x0a; it may hold none");
  server::GenerationRequest full = Text(std::string(kTinyPositions, 'a'), 256);
  full.fits_max_tokens = true;
  EXPECT_EQ(ErrorOf(full).rfind("prompt: 512 ", 0), 0U);
}

}  // namespace
}  // namespace strata::testing::generation_test
