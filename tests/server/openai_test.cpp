#include "server/openai/openai.h"

#include <sys/resource.h>

#include <string>

#include "gtest/gtest.h"
#include "tests/server/generation_testing.h"
#include "tests/server/metrics_text.h"

namespace strata::testing::openai_test {
namespace {

class OpenAiTest : public GenerationTest {
 protected:
  server::HttpReply Complete(const std::string& body, int max_generations = 8) {
    server::HttpCall call;
    call.body = body;
    return server::OpenAi(context_, max_generations).Complete(call);
  }
  std::string Rejections(const std::string& reason) const {
    return ValueOf(metrics_.Render(), "strata_rejections_total{reason=\"" + reason + "\"}");
  }
};

TEST_F(OpenAiTest, CountsByTheirReasonWhatTheQueueDidNotRefuse) {
  const std::string body = R"({"prompt":"a","max_tokens":1})";
  const server::HttpReply full = Complete(body, /*max_generations=*/0);
  EXPECT_EQ(full.status, 429);
  EXPECT_NE(full.body.find(R"("code":"rate_limit_exceeded")"), std::string::npos) << full.body;
  EXPECT_NE(full.body.find(R"("param":null)"), std::string::npos) << full.body;
  EXPECT_EQ(Rejections("http_limit"), "1");

  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = files.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const int status = Complete(body).status;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_EQ(status, 429);
  EXPECT_EQ(Rejections("no_descriptor"), "1");

  EXPECT_EQ(Complete(body).status, 200);
  EXPECT_EQ(Rejections("queue_full"), "absent");
}

TEST_F(OpenAiTest, RepeatsOfAModelsNameSoMuchThatItIsRecognized) {
  const std::string asked = "no\"model " + std::string(1000, 'x');
  const server::HttpReply reply =
      Complete(R"({"prompt":"a","model":"no\"model )" + std::string(1000, 'x') + "\"}");
  EXPECT_EQ(reply.status, 404);
  EXPECT_NE(reply.body.find("xxx... is not served here; "), std::string::npos) << reply.body;
  EXPECT_LT(reply.body.size(), 400U);
  const server::HttpReply path = server::OpenAi(context_, 8).models().Get(asked);
  EXPECT_EQ(path.status, 404);
  EXPECT_EQ(path.body, reply.body);
}

TEST_F(OpenAiTest, APromptThatIsTooLongHasOpenAisCode) {
  const std::string code = R"("code":"context_length_exceeded")";
  const std::string prompt(static_cast<size_t>(kTinyPositions), 'a');
  const server::HttpReply model = Complete(R"({"prompt":")" + prompt + "\"}");
  EXPECT_EQ(model.status, 400);
  EXPECT_NE(model.body.find(code), std::string::npos) << model.body;
  EXPECT_NE(model.body.find("prompt: 512 tokens leave no room for output in the model's positions, "
                            "512"),
            std::string::npos)
      << model.body;
  EXPECT_NE(model.body.find(R"("param":"prompt")"), std::string::npos) << model.body;

  const server::HttpReply output = Complete(R"({"prompt":"a","max_tokens":512})");
  EXPECT_NE(output.body.find(code), std::string::npos) << output.body;
  context_.max_prompt_tokens = 3;
  const server::HttpReply limit = Complete(R"({"prompt":"abcd"})");
  EXPECT_EQ(limit.status, 400);
  EXPECT_NE(limit.body.find(code), std::string::npos) << limit.body;
  EXPECT_NE(limit.body.find("prompt: 4 tokens; this server takes at most 3"), std::string::npos)
      << limit.body;
  const server::HttpReply other = Complete(R"({"prompt":"a","temperature":-1})");
  EXPECT_NE(other.body.find(R"("code":null)"), std::string::npos) << other.body;
}

TEST_F(OpenAiTest, SixteenTokensOrWhatFits) {
  for (const auto& [prompt, expected] : std::vector<std::pair<size_t, int>>{
           {3, 16}, {kTinyPositions - 10, 10}, {kTinyPositions - 1, 1}}) {
    const server::HttpReply reply = Complete(R"({"ignore_eos":true,"temperature":0,"prompt":")" +
                                             std::string(prompt, 'a') + "\"}");
    EXPECT_EQ(reply.status, 200) << reply.body;
    const std::string usage = "\"completion_tokens\":" + std::to_string(expected) + ",";
    EXPECT_NE(reply.body.find(usage), std::string::npos) << reply.body;
  }
}

}  // namespace
}  // namespace strata::testing::openai_test
