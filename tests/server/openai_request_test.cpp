#include "server/openai/openai_request.h"

#include <optional>
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
  const auto request = MustParse(R"({"prompt":"a"})");
  EXPECT_EQ(request.generation.sampling.max_tokens, 16);
  EXPECT_TRUE(request.generation.fits_max_tokens);
  EXPECT_EQ(request.generation.sampling.temperature, engine::SamplingParams{}.temperature);
  EXPECT_TRUE(request.generation.draws_seed);
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
  EXPECT_EQ(generation.sampling.max_tokens, 3);
  EXPECT_EQ(generation.sampling.temperature, 0.0F);
  EXPECT_EQ(generation.sampling.top_p, 0.5F);
  EXPECT_EQ(generation.sampling.top_k, 0);
  EXPECT_EQ(generation.sampling.min_p, 0.25F);
  EXPECT_EQ(generation.sampling.seed, uint64_t{INT64_MAX});
  EXPECT_EQ(generation.sampling.ignore_eos, true);
  EXPECT_EQ(generation.sampling.stop_ids, (std::vector<int32_t>{1, -2}));
  EXPECT_TRUE(request.echo);
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
}

TEST(OpenAiRequestTest, PromptIsTextOrIdsOrAnArrayOfOne) {
  const auto prompt = [](const std::string& value) {
    const auto request = MustParse("{\"prompt\":" + value + "}");
    EXPECT_EQ(request.prompts.size(), 1U);
    return request.prompts.at(0);
  };
  EXPECT_EQ(std::get<std::string>(prompt("\"ab\"")), "ab");
  EXPECT_EQ(std::get<std::string>(prompt("[\"ab\"]")), "ab");
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompt("[1,2]")), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompt("[[1,2]]")), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompt("[]")), std::vector<int32_t>());
}

TEST(OpenAiRequestTest, RefusesNamingTheField) {
  EXPECT_EQ(ErrorOf("{"), "the body: not JSON, the error is at byte 2 of 1");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","n":1,"n":2})"), "the body: key \"n\" twice");
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  EXPECT_EQ(ErrorOf(R"({"prompt":)" + deep + "}"),
            "the body: JSON nested deeper than the limit of 32");
  EXPECT_EQ(ErrorOf("[]"), "document: expected an object, got an array");
  EXPECT_EQ(ErrorOf("{}"), "prompt: expected a string or an array of token ids, got null");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","temperature":"hot"})"),
            "temperature: expected a number, got \"hot\"");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","max_tokens":1.5})").rfind("max_tokens: ", 0), 0U);
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","stream":"yes"})"),
            "stream: expected true or false, got \"yes\"");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","seed":1.5})"), "seed: expected a whole number, got 1.5");
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
  EXPECT_EQ(generation.sampling.logprobs, 3);
  EXPECT_EQ(generation.prompt_logprobs, 3);
  EXPECT_EQ(generation.sampling.presence_penalty, 0.5F);
  EXPECT_EQ(generation.sampling.frequency_penalty, -1.0F);
  EXPECT_EQ(generation.sampling.repetition_penalty, 1.5F);
  ASSERT_EQ(generation.sampling.logit_bias.size(), 2U);
  EXPECT_EQ(generation.sampling.logit_bias[0].id, 2);
  EXPECT_EQ(generation.sampling.logit_bias[0].bias, 1.5F);
  EXPECT_EQ(generation.sampling.logit_bias[1].id, 9);
  EXPECT_EQ(generation.sampling.min_tokens, 4);
  EXPECT_TRUE(generation.include_stop_string);
  EXPECT_EQ(generation.priority, -3);
  EXPECT_EQ(generation.cache_salt, "me");
  EXPECT_EQ(MustParse(R"({"prompt":"a","stop":"x"})").generation.stop,
            std::vector<std::string>{"x"});
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","stop":["x",1]})"),
            R"(stop: expected a string or an array of strings, got ["x",1])");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","logit_bias":{"x":2}})"),
            "logit_bias: expected token ids and numbers");
}

TEST(OpenAiRequestTest, RefusesWhatIsNotBuilt) {
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","best_of":2})"), "best_of: 2 is not supported; it must be n");
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","suffix":"x"})"), "suffix: not supported yet");
}

TEST(OpenAiRequestTest, AFieldThatAsksForWhatIsNotDoneIsRefusedByName) {
  const auto error = [](const std::string& field) {
    return ErrorOf(R"({"prompt":"a",)" + field + "}");
  };
  EXPECT_EQ(error(R"("temprature":0.5)"), "temprature: not recognised");
  EXPECT_EQ(error(R"("best-of":1)"), "best-of: not recognised");
  EXPECT_EQ(error("\"two\\nlines\":1"), "\"two\\nlines\": not recognised");
  EXPECT_LT(error("\"" + std::string(1000, 'x') + "\":1").size(), 200U);
  EXPECT_EQ(error(R"("response_format":{"type":"json_object"})"),
            "response_format: not supported yet");
  EXPECT_EQ(error(R"("guided_json":{"type":"object"})"), "guided_json: not supported yet");
  EXPECT_EQ(error(R"("tools":[{"type":"function"}])"), "tools: not supported yet");
  EXPECT_EQ(error(R"("tool_choice":"required")"), "tool_choice: not supported yet");
  EXPECT_EQ(error(R"("max_completion_tokens":5)"), "max_completion_tokens: not supported yet");
  EXPECT_EQ(error(R"("use_beam_search":true)"), "use_beam_search: not supported yet");
  EXPECT_EQ(error(R"("length_penalty":0.5)"), "length_penalty: not supported yet");
  EXPECT_EQ(error(R"("stream":true,"stream_options":{"include_usages":true})"),
            "stream_options.include_usages: not recognised");
}

TEST(OpenAiRequestTest, AFieldThatAsksForNothingPasses) {
  for (const char* field : {
           R"("no_such_field":null)",
           R"("no_such_field":[],"nor_this":{})",
           R"("tools":null,"response_format":null,"suffix":"")",
           R"("tools":[],"guided_json":{},"response_format":{"type":"text"})",
           R"("tool_choice":"none","parallel_tool_calls":true,"functions":[])",
           R"("use_beam_search":false,"length_penalty":1.0,"early_stopping":false)",
           R"("detokenize":true,"spaces_between_special_tokens":true)",
           R"("n":3,"best_of":3)",
           R"("user":"u","store":true,"metadata":{"a":"b"},"service_tier":"flex")",
           R"("safety_identifier":"s","prompt_cache_key":"k")",
           R"("stream_options":{})",
           R"("stream_options":{"include_usage":false})",
           R"("allowed_token_ids":[],"bad_words":[],"stop":"","stop_token_ids":[])",
       }) {
    MustParse(std::string(R"({"prompt":"a",)") + field + "}");
  }
}

TEST(OpenAiRequestTest, ReadsVllmsParameters) {
  const auto request = MustParse(
      R"({"prompt":"a","allowed_token_ids":[5,7.0],"bad_words":["x"," y"],"prompt_logprobs":2,
          "add_special_tokens":false,"skip_special_tokens":false,"truncate_prompt_tokens":-1,
          "return_token_ids":true,"return_tokens_as_token_ids":true,"request_id":"me",
          "stream":true,"stream_options":{"continuous_usage_stats":true}})");
  EXPECT_EQ(request.generation.sampling.allowed_ids, (std::vector<int32_t>{5, 7}));
  EXPECT_EQ(request.generation.bad_words, (std::vector<std::string>{"x", " y"}));
  EXPECT_EQ(request.generation.prompt_logprobs, 2);
  EXPECT_EQ(request.prompt_logprobs, 2);
  EXPECT_FALSE(request.generation.add_special_tokens);
  EXPECT_FALSE(request.generation.skip_special_tokens);
  EXPECT_EQ(request.generation.truncate_prompt_tokens, -1);
  EXPECT_TRUE(request.return_token_ids);
  EXPECT_TRUE(request.tokens_as_ids);
  EXPECT_EQ(request.request_id, "me");
  EXPECT_FALSE(request.include_usage);
  EXPECT_TRUE(request.continuous_usage);
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","bad_words":"x"})"),
            "bad_words: expected an array of strings, got \"x\"");
}

TEST(OpenAiRequestTest, WholeNumbersMayBeWrittenWithAPoint) {
  const auto request =
      MustParse(R"({"prompt":[1.0,2],"max_tokens":16.0,"n":2.0,"top_k":5e1,"seed":7.0})");
  EXPECT_EQ(std::get<std::vector<int32_t>>(request.prompts[0]), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(request.generation.sampling.max_tokens, 16);
  EXPECT_EQ(request.generation.n, 2);
  EXPECT_EQ(request.generation.sampling.top_k, 50);
  EXPECT_EQ(request.generation.sampling.seed, 7U);
  EXPECT_EQ(ErrorOf(R"({"prompt":"a","max_tokens":1e300})").rfind("max_tokens: expected", 0), 0U);
}

TEST(OpenAiRequestTest, SeedsCountByTheirBitsAndMinusOneIsNone) {
  const auto seed = [](const std::string& value) -> std::optional<uint64_t> {
    const auto request = MustParse(R"({"prompt":"a","seed":)" + value + "}");
    if (request.generation.draws_seed) return std::nullopt;
    return request.generation.sampling.seed;
  };
  EXPECT_EQ(seed("-1"), std::nullopt);
  EXPECT_EQ(seed("-1.0"), std::nullopt);
  EXPECT_EQ(seed("-2"), ~uint64_t{1});
  EXPECT_EQ(seed("-9223372036854775808"), uint64_t{1} << 63);
  EXPECT_EQ(seed("18446744073709551615"), ~uint64_t{0});
}

TEST(OpenAiRequestTest, TakesAListOfPrompts) {
  const auto texts = MustParse(R"({"prompt":["a","","b"]})");
  ASSERT_EQ(texts.prompts.size(), 3U);
  EXPECT_EQ(std::get<std::string>(texts.prompts[2]), "b");
  const auto ids = MustParse(R"({"prompt":[[1,2],[],[3]]})");
  ASSERT_EQ(ids.prompts.size(), 3U);
  EXPECT_EQ(std::get<std::vector<int32_t>>(ids.prompts[0]), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(MustParse(R"({"prompt":["a",[1]]})").prompts.size(), 2U);
  EXPECT_EQ(ErrorOf(R"({"prompt":[[1],[2,"secret"]]})"),
            "prompt[1]: expected token ids, got a string at 1");
}

}  // namespace
}  // namespace strata::server::openai_request_test
