#include "tests/load/workload.h"

#include "tests/load/traces.h"

namespace strata::testing::load_workload_test {
namespace {

using load::Job;
using load::Lengths;
using load::ParseTrace;
using load::Talk;
using load::Trace;
using load::Workload;
using load::WorkloadOptions;
using std::chrono::milliseconds;
using ::testing::ElementsAre;

WorkloadOptions Base() {
  return {.input = Lengths::Constant(50),
          .output = Lengths::Constant(20),
          .vocab_size = 1000,
          .max_positions = 4096};
}

std::vector<int32_t> Ids(const Job& job) {
  const auto& ids = job.request.token_ids().ids();
  return {ids.begin(), ids.end()};
}

Job First(const WorkloadOptions& options, int64_t number) {
  Workload workload(options);
  Talk talk = workload.Begin(number);
  return workload.Next(&talk);
}

TEST(LoadTracesTest, AzuresDates) {
  const auto trace = ParseTrace(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
      "2023-11-30 23:59:59.9000000,374,44\r\n"
      "2023-12-01 00:00:01.4000001,396,109\r\n",
      "azure.csv");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->rows.size(), 2U);
  EXPECT_EQ(trace->rows[0].at, load::Time(0));
  EXPECT_EQ(trace->rows[1].at, load::Time(1'500'000'100));
  EXPECT_EQ(trace->rows[1].input_tokens, 396);
  EXPECT_EQ(trace->rows[1].output_tokens, 109);
  EXPECT_EQ(trace->skipped, 0);
}

TEST(LoadTracesTest, PlainTimesInAnyOrder) {
  const auto trace = ParseTrace("12.5,10,1\n10,20,2\n\n11.25,30,3\n", "plain.csv");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->rows.size(), 3U);
  EXPECT_EQ(trace->rows[0].input_tokens, 20);
  EXPECT_EQ(trace->rows[1].at, milliseconds(1250));
  EXPECT_EQ(trace->rows[2].at, milliseconds(2500));
}

TEST(LoadTracesTest, ShufflingMovesRequestsAndNoMoments) {
  load::Trace trace;
  for (int32_t i = 0; i < 100; ++i) {
    trace.rows.push_back({.at = milliseconds(i), .input_tokens = i, .output_tokens = 1000 + i});
  }
  load::Trace shuffled = trace;
  load::ShuffleTrace(7, &shuffled);
  load::Trace again = trace;
  load::ShuffleTrace(7, &again);
  load::Trace other = trace;
  load::ShuffleTrace(8, &other);
  std::vector<int32_t> inputs, inputs_again, inputs_other;
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(shuffled.rows[i].at, trace.rows[i].at);
    EXPECT_EQ(shuffled.rows[i].output_tokens, 1000 + shuffled.rows[i].input_tokens);
    inputs.push_back(shuffled.rows[i].input_tokens);
    inputs_again.push_back(again.rows[i].input_tokens);
    inputs_other.push_back(other.rows[i].input_tokens);
  }
  EXPECT_EQ(inputs, inputs_again);
  EXPECT_NE(inputs, inputs_other);
  EXPECT_FALSE(std::is_sorted(inputs.begin(), inputs.end()));
  std::sort(inputs.begin(), inputs.end());
  for (int32_t i = 0; i < 100; ++i) EXPECT_EQ(inputs[static_cast<size_t>(i)], i);
}

TEST(LoadTracesTest, MooncakesBlocks) {
  const auto trace = ParseTrace(
      R"({"timestamp": 27482, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]})"
      "\n"
      R"({"timestamp": 30535, "input_length": 700, "output_length": 26, "hash_ids": [46, 57]})"
      "\n",
      "mooncake.jsonl");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->rows.size(), 2U);
  EXPECT_EQ(trace->rows[1].at, milliseconds(3053));
  EXPECT_THAT(trace->rows[1].blocks, ElementsAre(46, 57));
  WorkloadOptions options = Base();
  options.trace = &*trace;
  const std::vector<int32_t> first = Ids(First(options, 0)), second = Ids(First(options, 1));
  ASSERT_EQ(first.size(), 600U);
  ASSERT_EQ(second.size(), 700U);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 512, second.begin()));
  EXPECT_NE(first[512], second[512]);
}

TEST(LoadTracesTest, BadLinesAreSkippedAndNamed) {
  const auto trace = ParseTrace(
      "time,input,output\n1,5,5\n2,5\nyesterday,5,5\n3,0,5\n4,5,0\n5,1.5,5\n6,-1,5\nnan,5,5\n"
      "2023-13-01 00:00:00,5,5\n7,99999999999,5\n8,5,5\n",
      "t.csv");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->rows.size(), 2U);
  EXPECT_EQ(trace->skipped, 9);
  EXPECT_THAT(trace->complaints,
              ElementsAre("t.csv: line 3: three fields are needed: time, input and output tokens",
                          "t.csv: line 4: 'yesterday' is no time", "t.csv: line 5: no input tokens",
                          "t.csv: line 6: no output tokens",
                          "t.csv: line 7: token counts are no whole numbers",
                          "t.csv: line 8: token counts are no whole numbers",
                          "t.csv: line 9: the time is out of range",
                          "t.csv: line 10: '2023-13-01 00:00:00' is no time",
                          "t.csv: line 11: token counts are no whole numbers"));
}

TEST(LoadTracesTest, BadJsonLinesAreSkippedAndNamed) {
  const auto trace = ParseTrace(
      "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 5}\n"
      "{\"timestamp\": 1\n[]\n"
      "{\"timestamp\": 0, \"input_length\": \"5\", \"output_length\": 5}\n"
      "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1]}\n"
      "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 5, \"hash_ids\": [\"a\"]}\n"
      "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 5, \"hash_ids\": 7}\n",
      "m");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->rows.size(), 1U);
  EXPECT_THAT(trace->complaints,
              ElementsAre("m: line 2: not a JSON object", "m: line 3: not a JSON object",
                          "m: line 4: token counts are no whole numbers",
                          "m: line 5: hash_ids names 1 blocks of 512 tokens, 2 are needed",
                          "m: line 6: hash_ids holds what is no whole number",
                          "m: line 7: hash_ids is not a list"));
}

TEST(LoadTracesTest, NothingToReplayIsAnError) {
  EXPECT_EQ(std::string(ParseTrace("", "e").status().message()), "e: no line is a request");
  EXPECT_EQ(
      std::string(ParseTrace("a,b\nx\n", "e").status().message()),
      "no line is a request: e: line 2: three fields are needed: time, input and output tokens");
  const std::string missing = "/nonexistent/trace.csv";
  EXPECT_EQ(std::string(load::ReadTrace(missing).status().message()), missing + ": cannot be read");
}

TEST(LoadWorkloadTest, RequestsDependOnSeedAndNumberAlone) {
  WorkloadOptions options = Base();
  options.seed = 5;
  options.input = *Lengths::Parse("uniform:10:90");
  const Job fourth = First(options, 4);
  Workload workload(options);
  for (int64_t number = 0; number < 8; ++number) {
    Talk talk = workload.Begin(number);
    const Job job = workload.Next(&talk);
    EXPECT_EQ(job.request.SerializeAsString() == fourth.request.SerializeAsString(), number == 4);
    for (const int32_t id : Ids(job)) ASSERT_LT(id, 1000);
    EXPECT_EQ(job.request.max_tokens(), 20);
    EXPECT_TRUE(job.request.ignore_eos());
    EXPECT_EQ(job.input_tokens, std::ssize(Ids(job)));
  }
  options.seed = 6;
  EXPECT_NE(Ids(First(options, 4)), Ids(fourth));
}

TEST(LoadWorkloadTest, GroupsShareTheirPrefixes) {
  WorkloadOptions options = Base();
  options.prefix_groups = 3;
  options.prefix_tokens = 100;
  std::map<std::vector<int32_t>, int> groups;
  std::set<std::vector<int32_t>> rests;
  for (int64_t number = 0; number < 300; ++number) {
    const std::vector<int32_t> ids = Ids(First(options, number));
    ASSERT_EQ(ids.size(), 150U);
    ++groups[{ids.begin(), ids.begin() + 100}];
    rests.insert({ids.begin() + 100, ids.end()});
  }
  EXPECT_EQ(groups.size(), 3U);
  for (const auto& [prefix, count] : groups) EXPECT_GT(count, 70);
  EXPECT_EQ(rests.size(), 300U);
}

TEST(LoadWorkloadTest, ASessionIsAGroupOrElseATalk) {
  WorkloadOptions options = Base();
  options.turns = 2;
  EXPECT_EQ(First(options, 0).session, "");
  options.sessions = true;
  Workload talks(options);
  Talk talk = talks.Begin(4);
  const std::string session = talks.Next(&talk).session;
  EXPECT_EQ(talks.Next(&talk).session, session);
  EXPECT_NE(First(options, 5).session, session);

  options.prefix_groups = 3;
  options.prefix_tokens = 100;
  std::map<std::string, std::set<std::vector<int32_t>>> prefixes;
  for (int64_t number = 0; number < 50; ++number) {
    const Job job = First(options, number);
    const std::vector<int32_t> ids = Ids(job);
    prefixes[job.session].insert({ids.begin(), ids.begin() + 100});
  }
  EXPECT_EQ(prefixes.size(), 3U);
  for (const auto& [key, begins] : prefixes) EXPECT_EQ(begins.size(), 1U) << key;
  const std::string group = First(options, 0).session;
  options.seed = 6;  // gives other prefixes
  EXPECT_EQ(prefixes.count(First(options, 0).session), 0U) << group;
}

TEST(LoadWorkloadTest, SharesAndMixesAreKept) {
  WorkloadOptions options = Base();
  options.cancel_share = 0.25;
  options.mix = {*load::ParseVariant("1:priority=-1,temperature=0.5"),
                 *load::ParseVariant("3:top_k=7")};
  options.temperature = 0;
  int cancelled = 0, first = 0;
  std::vector<int> after(20);
  for (int64_t number = 0; number < 8000; ++number) {
    const Job job = First(options, number);
    if (job.cancel_after) ++cancelled, ++after.at(static_cast<size_t>(*job.cancel_after));
    if (job.request.priority() == -1) {
      ++first;
      EXPECT_EQ(job.request.temperature(), 0.5F);
    } else {
      EXPECT_EQ(job.request.top_k(), 7);
      EXPECT_EQ(job.request.temperature(), 0);
    }
  }
  // Binomial: deviations of 39, five of them allowed.
  EXPECT_NEAR(cancelled, 2000, 195);
  EXPECT_NEAR(first, 2000, 195);
  for (const int count : after) EXPECT_NEAR(count, 100, 50);
}

TEST(LoadWorkloadTest, VariantsAreReadOrRefused) {
  const auto variant = load::ParseVariant("0.5:priority=-3,top_p=0.25,bypass_prefix_cache=1");
  ASSERT_TRUE(variant.ok()) << variant.status();
  EXPECT_EQ(variant->weight, 0.5);
  EXPECT_EQ(variant->fields.priority(), -3);
  EXPECT_EQ(variant->fields.top_p(), 0.25F);
  EXPECT_TRUE(variant->fields.bypass_prefix_cache());
  // A repeated field is named several times.
  const auto repeated = load::ParseVariant(
      "1:stop=a b,stop=c,bad_words=x,allowed_token_ids=3,allowed_token_ids=5,logit_bias=42:-5,"
      "attention=1:2,truncate_prompt_tokens=-1,skip_special_tokens=0,cache_salt=me");
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_EQ(repeated->fields.stop_size(), 2);
  EXPECT_EQ(repeated->fields.stop(0), "a b");
  EXPECT_EQ(repeated->fields.bad_words(0), "x");
  EXPECT_EQ(repeated->fields.allowed_token_ids(1), 5);
  EXPECT_EQ(repeated->fields.logit_bias().at(42), -5);
  EXPECT_EQ(repeated->fields.attention(0).layer(), 1);
  EXPECT_EQ(repeated->fields.attention(0).head(), 2);
  EXPECT_EQ(repeated->fields.truncate_prompt_tokens(), -1);
  EXPECT_TRUE(repeated->fields.has_skip_special_tokens());
  EXPECT_EQ(repeated->fields.cache_salt(), "me");
  for (const char* wrong :
       {"priority=1", "0:priority=1", "1:", "1:priority", "1:priority=x", "1:priority=0.5",
        "1:text=5", "1:nothing=5", "1:token_ids=1", "1:n=2", "1:logit_bias=42", "1:logit_bias=42:x",
        "1:allowed_token_ids=x", "1:ignore_eos=7", "-1:priority=0"}) {
    EXPECT_FALSE(load::ParseVariant(wrong).ok()) << wrong;
  }
}

TEST(LoadWorkloadTest, WhatDoesNotFitIsCutAndCounted) {
  WorkloadOptions options = Base();
  options.max_positions = 64;
  Trace trace;
  trace.rows = {{.input_tokens = 40, .output_tokens = 24},
                {.input_tokens = 60, .output_tokens = 24},
                {.input_tokens = 60, .output_tokens = 900}};
  options.trace = &trace;
  Workload workload(options);
  const auto next = [&workload](int64_t number) {
    Talk talk = workload.Begin(number);
    return workload.Next(&talk);
  };
  EXPECT_EQ(Ids(next(0)).size(), 40U);
  EXPECT_EQ(workload.cut(), 0);
  EXPECT_EQ(Ids(next(1)).size(), 40U);
  EXPECT_EQ(workload.cut(), 1);
  const Job longest = next(2);
  EXPECT_EQ(Ids(longest).size(), 1U);
  EXPECT_EQ(longest.request.max_tokens(), 63);
  EXPECT_EQ(workload.cut(), 2);
  options.length_scale = 0.1;
  EXPECT_EQ(Ids(First(options, 1)).size(), 6U);
  EXPECT_EQ(First(options, 1).request.max_tokens(), 2);
}

TEST(LoadWorkloadTest, ATalkEndsWhereNoTurnFits) {
  WorkloadOptions options = Base();
  options.max_positions = 100;
  options.turns = 9;
  Workload workload(options);
  Talk talk = workload.Begin(0);
  EXPECT_EQ(Ids(workload.Next(&talk)).size(), 50U);
  EXPECT_TRUE(workload.Answer(std::vector<int32_t>(20, 1), "", &talk));
  const Job second = workload.Next(&talk);
  EXPECT_EQ(Ids(second).size(), 80U);  // ten new ones, beside an answer of twenty
  EXPECT_FALSE(workload.Answer(std::vector<int32_t>(20, 1), "", &talk));
}

TEST(LoadWorkloadTest, PromptsAreTakenInTurn) {
  WorkloadOptions options = Base();
  options.prompts = {"one", "two", "three"};
  options.turns = 2;
  Workload workload(options);
  Talk talk = workload.Begin(1);
  EXPECT_EQ(workload.Next(&talk).request.text(), "three");
  ASSERT_TRUE(workload.Answer({1, 2}, " said", &talk));
  EXPECT_EQ(workload.Next(&talk).request.text(), "three saidone");
}

}  // namespace
}  // namespace strata::testing::load_workload_test
