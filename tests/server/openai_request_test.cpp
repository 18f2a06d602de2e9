#include "server/openai_request.h"

#include <string>
#include <variant>
#include <vector>

#include "gtest/gtest.h"

namespace strata::server::openai_request_test {
namespace {

CompletionRequest MustParse(const std::string& body) {
  auto request = ParseCompletion(body);
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *request : CompletionRequest();
}

std::string ErrorOf(const std::string& body) {
  const auto request = ParseCompletion(body);
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(request.status().message());
}

TEST(OpenAiRequestTest, DefaultsAreOpenAis) {
  const auto request = MustParse(R"({"prompt":"a","some_new_key":[1]})");
  EXPECT_EQ(request.generation.max_tokens, std::nullopt);
  EXPECT_EQ(request.generation.default_max_tokens, 16);
  EXPECT_EQ(request.generation.temperature, std::nullopt);
  EXPECT_EQ(request.generation.seed, std::nullopt);
  EXPECT_FALSE(request.stream);
  EXPECT_FALSE(request.echo);
  EXPECT_EQ(request.model, "");
}

TEST(OpenAiRequestTest, ReadsWhatIsGiven) {
  const auto request = MustParse(
      R"({"model":"m","prompt":"a","max_tokens":3,"temperature":0,"top_p":0.5,"top_k":-1,
          "min_p":0.25,"seed":9223372036854775807,"ignore_eos":true,"stop_token_ids":[1,-2],
          "user":"u","echo":true,"stream":true,"stream_options":{"include_usage":true},
          "n":1,"stop":null,"logprobs":null,"presence_penalty":0.0,"logit_bias":{},"priority":0,
          "cache_salt":"","best_of":1})");
  const GenerationRequest& generation = request.generation;
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(generation.max_tokens, 3);
  EXPECT_EQ(generation.temperature, 0.0F);
  EXPECT_EQ(generation.top_p, 0.5F);
  EXPECT_EQ(generation.top_k, 0);
  EXPECT_EQ(generation.min_p, 0.25F);
  EXPECT_EQ(generation.seed, uint64_t{INT64_MAX});
  EXPECT_EQ(generation.ignore_eos, true);
  EXPECT_EQ(generation.stop_token_ids, (std::vector<int32_t>{1, -2}));
  EXPECT_TRUE(request.echo);
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
}

TEST(OpenAiRequestTest, PromptIsTextOrIdsOrAnArrayOfOne) {
  const auto prompt = [](const std::string& value) {
    return MustParse("{\"prompt\":" + value + "}").generation.prompt;
  };
  EXPECT_EQ(std::get<std::string>(prompt("\"ab\"")), "ab");
  EXPECT_EQ(std::get<std::string>(prompt("[\"ab\"]")), "ab");
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompt("[1,2]")), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompt("[[1,2]]")), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompt("[]")), std::vector<int32_t>());
}

TEST(OpenAiRequestTest, RefusesNamingTheField) {
  EXPECT_EQ(ErrorOf("{"), "the body is not JSON");
  EXPECT_EQ(ErrorOf("[]"), "document: expected an object, got an array");
  EXPECT_EQ(ErrorOf("{}"), "prompt: expected a string or an array of token ids, got null");
  EXPECT_EQ(ErrorOf(R"({"prompt":["a","b"]})"), "prompt: 2 prompts; at most 1 in a request");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","temperature":"hot"})"),
            "temperature: expected a number, got \"hot\"");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","max_tokens":1.5})").rfind("max_tokens: ", 0), 0U);
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","stream":"yes"})"),
            "stream: expected true or false, got \"yes\"");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","seed":-1})").rfind("seed: ", 0), 0U);
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","stream_options":{"include_usage":true}})"),
            "stream_options: only with stream: true");
}

TEST(OpenAiRequestTest, SaysNothingOfWhatAPromptHolds) {
  const auto error = [](const std::string& prompt) {
    return ErrorOf("{\"prompt\":" + prompt + "}");
  };
  const std::string ids = "prompt: expected token ids, got ";
  EXPECT_EQ(error(R"([1,"secret"])"), ids + "a string at 1");
  EXPECT_EQ(error(R"([["secret"]])"), ids + "a string at 0");
  EXPECT_EQ(error("[1,4294967296]"), ids + "another number at 1");
  EXPECT_EQ(error("[1,2,1.5]"), ids + "another number at 2");
  EXPECT_EQ(error("[1,true]"), ids + "true or false at 1");
  EXPECT_EQ(error("[1,null]"), ids + "null at 1");
  EXPECT_EQ(error(R"([1,{"a":"secret"}])"), ids + "an object at 1");
  EXPECT_EQ(error("[[[1]]]"), ids + "an array at 0");
  const std::string text = "prompt: expected a string or an array of token ids, got ";
  EXPECT_EQ(error("4111111111111111"), text + "a number");
  EXPECT_EQ(error("false"), text + "true or false");
  EXPECT_EQ(error(R"({"a":"secret"})"), text + "an object");
  EXPECT_EQ(ErrorOf(R"("secret")"), "document: expected an object, got a string");
}

TEST(OpenAiRequestTest, ReadsSampling) {
  const auto request = MustParse(
      R"({"prompt":"a","n":2,"best_of":2,"stop":["x","yz"],"logprobs":3,"echo":true,
          "presence_penalty":0.5,"frequency_penalty":-1,"repetition_penalty":1.5,
          "logit_bias":{"9":-100,"2":1.5},"min_tokens":4,"include_stop_str_in_output":true,
          "priority":-3,"cache_salt":"me"})");
  const GenerationRequest& generation = request.generation;
  EXPECT_EQ(generation.n, 2);
  EXPECT_EQ(generation.stop, (std::vector<std::string>{"x", "yz"}));
  EXPECT_EQ(generation.logprobs, 3);
  EXPECT_EQ(generation.prompt_logprobs, 3);
  EXPECT_EQ(generation.presence_penalty, 0.5F);
  EXPECT_EQ(generation.frequency_penalty, -1.0F);
  EXPECT_EQ(generation.repetition_penalty, 1.5F);
  ASSERT_EQ(generation.logit_bias.size(), 2U);
  EXPECT_EQ(generation.logit_bias[0].id, 2);
  EXPECT_EQ(generation.logit_bias[0].bias, 1.5F);
  EXPECT_EQ(generation.logit_bias[1].id, 9);
  EXPECT_EQ(generation.min_tokens, 4);
  EXPECT_TRUE(generation.include_stop_string);
  EXPECT_EQ(generation.priority, -3);
  EXPECT_EQ(generation.cache_salt, "me");
  EXPECT_EQ(MustParse(R"({"prompt":"a","stop":"x"})").generation.stop,
            std::vector<std::string>{"x"});
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","stop":["x",1]})"),
            "stop: expected a string or an array of strings, got an array");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","logit_bias":{"x":2}})"),
            "logit_bias: expected token ids and numbers");
}

TEST(OpenAiRequestTest, RefusesWhatIsNotBuilt) {
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","best_of":2})"), "best_of: 2 is not supported; it must be n");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","suffix":"x"})"), "suffix: is not supported");
}

}  // namespace
}  // namespace strata::server::openai_request_test
