#include "server/telemetry/trace.h"

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::trace_test {
namespace {

using nlohmann::json;
using server::Trace;

constexpr int32_t kVocab = 61;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int64_t Nanoseconds(const json& event, const char* key) {
  return std::llround(event.at(key).get<double>() * 1000);
}

struct Counter final : engine::EngineObserver {
  void OnStep(const engine::StepStats& step) override {
    ++steps;
    tokens += step.prefill_tokens + step.decode_tokens;
    preemptions += step.preemptions;
  }
  void OnFinished(const std::string&, const engine::FinishedEvent&) override { ++finished; }
  void OnAbort(const engine::AbortStats&) override {}
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t preemptions = 0;
  int64_t finished = 0;
};

// Checks the invariants of a trace that dropped nothing.
class CheckedTrace {
 public:
  explicit CheckedTrace(const std::string& text) {
    for (const json& event : json::parse(text)) {
      const std::string kind = event.at("ph");
      if (kind == "X") AddSpan(event);
      if (kind == "C") counters[event.at("name")] = event.at("args");
      if (kind == "b" || kind == "e") AddOfTrack(event, kind == "b");
      if (kind == "i") dropped = event.at("args").at("dropped_events");
    }
    for (const auto& [id, open] : open_) EXPECT_TRUE(open.empty()) << id;
  }

  std::map<std::string, json> counters;                       // the last of each
  std::map<std::string, int> spans;                           // of requests, by name
  std::map<std::string, std::vector<std::string>> sequences;  // request/index -> its phases
  std::map<std::string, std::string> reasons;                 // how it ended
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t preemptions = 0;
  int64_t dropped = -1;

 private:
  void AddSpan(const json& event) {
    const std::string name = event.at("name");
    const int64_t begin = Nanoseconds(event, "ts");
    const int64_t end = begin + Nanoseconds(event, "dur");
    EXPECT_LE(begin, end);
    if (name == "step") {
      EXPECT_EQ(part_, steps == 0 ? 0U : 4U) << "a step has four parts";
      EXPECT_GE(begin, step_end_) << "steps do not overlap";
      ++steps;
      tokens += event.at("args").at("prefill_tokens").get<int64_t>() +
                event.at("args").at("decode_tokens").get<int64_t>();
      preemptions += event.at("args").at("preemptions").get<int64_t>();
      step_end_ = end;
      part_end_ = begin;
      part_ = 0;
      return;
    }
    const std::vector<std::string> parts = {"plan", "forward", "sample", "commit"};
    ASSERT_LT(part_, parts.size());
    EXPECT_EQ(name, parts[part_++]);
    EXPECT_GE(begin, part_end_);
    EXPECT_LE(end, step_end_);
    part_end_ = end;
  }

  void AddOfTrack(const json& event, bool begins) {
    const std::string name = event.at("name");
    const auto id = event.at("id").get<uint64_t>();
    std::vector<std::string>& open = open_[id];
    EXPECT_GE(Nanoseconds(event, "ts"), last_time_[id]);
    last_time_[id] = Nanoseconds(event, "ts");
    if (begins) {
      if (name == "request") {
        EXPECT_TRUE(open.empty());
        const json& args = event.at("args");
        sequence_of_[id] = args.at("request_id").get<std::string>() + "/" +
                           std::to_string(args.at("index").get<int>());
      } else {
        EXPECT_EQ(open, std::vector<std::string>{"request"}) << "one phase at a time";
        sequences[sequence_of_[id]].push_back(name);
      }
      ++spans[name];
      open.push_back(name);
      return;
    }
    ASSERT_FALSE(open.empty());
    EXPECT_EQ(open.back(), name);
    open.pop_back();
    if (name == "request") reasons[sequence_of_[id]] = event.at("args").at("reason");
  }

  size_t part_ = 0;
  int64_t step_end_ = INT64_MIN;
  int64_t part_end_ = 0;
  std::map<uint64_t, std::vector<std::string>> open_;
  std::map<uint64_t, int64_t> last_time_;
  std::map<uint64_t, std::string> sequence_of_;
};

class TraceTest : public ::testing::Test {
 protected:
  TraceTest()
      : path_(scratch_.path() / "trace.json"),
        model_dir_(WriteModelDir(MakeTinyModel({.attention = {.num_layers = 1,
                                                              .num_query_heads = 1,
                                                              .num_kv_heads = 1,
                                                              .head_dim = 8},
                                                .hidden_size = 8,
                                                .intermediate_size = 8,
                                                .vocab_size = kVocab,
                                                .max_positions = 128}),
                                 scratch_.path())) {}

  // A pool of 14 blocks of 8 tokens: too small for Work.
  engine::EngineOptions Options(engine::EngineObserver* observer) const {
    engine::EngineOptions options;
    options.model_dir = model_dir_;
    options.device = "cpu";
    options.threads = 1;
    options.block_tokens = 8;
    options.cache_bytes = size_t{2} * 8 * sizeof(float) * 8 * 14;
    options.observer = observer;
    return options;
  }
  // Eight long requests, one of three sequences, one cancelled while it waits, one while it runs.
  static void Work(EngineRunner* runner) {
    for (int32_t i = 0; i < 8; ++i) {
      runner->MustSubmit("r" + std::to_string(i),
                         RandomPrompt(static_cast<uint64_t>(i), 5 + 3 * i, kVocab), Greedy(40));
    }
    engine::Request three;
    three.id = "three \"\n\xFF";
    three.prompt = RandomPrompt(9, 12, kVocab);
    three.n = 3;
    three.sampling = Greedy(20);
    ASSERT_TRUE(runner->Submit(three).ok());
    runner->MustSubmit("queued", RandomPrompt(10, 9, kVocab), Greedy(30));
    runner->Step();
    runner->Step();
    const absl::Status status = absl::CancelledError("by the test");
    EXPECT_TRUE(runner->core().Finish("queued", engine::FinishReason::kCancelled, status));
    EXPECT_TRUE(runner->core().Finish("r0", engine::FinishReason::kCancelled, status));
    runner->Run();
  }

  const ScratchDir scratch_;
  const std::string path_;
  const std::filesystem::path model_dir_;
};

TEST_F(TraceTest, EveryRequestBeginsAndEndsAndSpansNest) {
  Counter counter;
  {
    auto trace = Trace::Open(path_, &counter);
    ASSERT_TRUE(trace.ok()) << trace.status();
    EngineRunner runner(Options(trace->get()));
    Work(&runner);
  }
  const CheckedTrace trace(ReadFile(path_));
  EXPECT_EQ(trace.dropped, 0);
  EXPECT_GT(trace.steps, 40);
  EXPECT_EQ(trace.steps, counter.steps);
  EXPECT_EQ(trace.tokens, counter.tokens);
  EXPECT_EQ(trace.preemptions, counter.preemptions);
  // Two of the three sequences may find no room at their fork, and then wait as if preempted.
  EXPECT_GE(trace.spans.at("preempted"), counter.preemptions);
  EXPECT_LE(trace.spans.at("preempted"), counter.preemptions + 2);
  EXPECT_GT(counter.preemptions, 0);

  ASSERT_EQ(trace.sequences.size(), 8U + 3U + 1U);
  EXPECT_EQ(counter.finished, 8 + 3 + 1);
  EXPECT_EQ(trace.reasons.size(), trace.sequences.size()) << "every one that began has ended";
  EXPECT_EQ(trace.sequences.at("queued/0"), std::vector<std::string>{"queued"});
  EXPECT_EQ(trace.reasons.at("queued/0"), "cancelled");
  EXPECT_EQ(trace.sequences.at("r0/0"), (std::vector<std::string>{"queued", "prefill", "decode"}));
  EXPECT_EQ(trace.reasons.at("r0/0"), "cancelled");
  EXPECT_EQ(trace.reasons.at("r7/0"), "length");
  for (const char* index : {"0", "1", "2"}) {
    const std::string id = std::string("three \"\n\xEF\xBF\xBD/") + index;
    EXPECT_EQ(trace.reasons.at(id), "length");
    EXPECT_EQ(trace.sequences.at(id).back(), "decode");
  }
  EXPECT_EQ(trace.counters.at("blocks").at("used"), 0);
  EXPECT_EQ(trace.counters.at("sequences").at("running"), 0);
  EXPECT_EQ(trace.counters.at("sequences").at("waiting"), 0);
}

// A trace as SIGKILL leaves it: whole events, no end.
TEST_F(TraceTest, OpensWithoutItsEnd) {
  auto trace = Trace::Open(path_, nullptr);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EngineRunner runner(Options(trace->get()));
  Work(&runner);
  ASSERT_FALSE(HasFatalFailure());
  std::string text;
  while (text.find("\"step\"") == std::string::npos) {  // until its next write
    std::this_thread::yield();
    text = ReadFile(path_);
  }
  EXPECT_FALSE(json::accept(text));
  EXPECT_GT(json::parse(text.substr(0, text.rfind(",\n")) + "]").size(), 10U);
}

TEST_F(TraceTest, SaysWhatItDropped) {
  int64_t pushed = 0;
  int64_t dropped = 0;
  {
    auto trace = Trace::Open(path_, nullptr);
    ASSERT_TRUE(trace.ok()) << trace.status();
    for (engine::StepStats step; (*trace)->dropped() == 0; ++pushed) {
      step.number = pushed;
      (*trace)->OnStep(step);
    }
    dropped = (*trace)->dropped();
  }
  const CheckedTrace trace(ReadFile(path_));
  EXPECT_EQ(trace.dropped, dropped);
  EXPECT_EQ(trace.steps, pushed - dropped);
}

TEST_F(TraceTest, AFullDiskEndsTheTraceWithOneWarning) {
  std::ostringstream log;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  {
    auto trace = Trace::Open("/dev/full", nullptr);
    ASSERT_TRUE(trace.ok()) << trace.status();
    EngineRunner runner(Options(trace->get()));
    Work(&runner);
    EXPECT_EQ(runner["r7"].end.reason, engine::FinishReason::kLength);
  }
  spdlog::set_default_logger(before);
  const std::string text = log.str();
  const size_t found = text.find("No space left on device");
  ASSERT_NE(found, std::string::npos) << text;
  EXPECT_EQ(text.find("trace", found), std::string::npos) << text;
}

TEST_F(TraceTest, AFileThatCannotBeOpenedIsNamed) {
  const auto trace = Trace::Open("/no/such/folder/trace.json", nullptr);
  EXPECT_EQ(trace.status().message(),
            "trace /no/such/folder/trace.json: No such file or directory");
}

}  // namespace
}  // namespace strata::testing::trace_test
