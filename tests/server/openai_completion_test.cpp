// Completions as programs read them: log-probabilities and their offsets, lists of prompts, stop
// strings, vLLM's parameters.
#include "server/openai/openai_completion.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/openai/openai.h"
#include "tests/server/generation_testing.h"

namespace strata::testing::openai_completion_test {
namespace {

using nlohmann::json;

// Byte b is token b + 1, so these are the tokens of a text.
std::vector<int32_t> IdsOf(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 1);
  return ids;
}

class OpenAiCompletionTest : public GenerationTest {
 protected:
  server::HttpReply Post(const json& body) {
    const std::string text = body.dump();
    server::HttpCall call;
    call.body = text;
    call.request_id = "caller";
    return server::OpenAi(context_, 8).Complete(call);
  }
  // Greedy unless the body says otherwise.
  json Complete(json body) {
    if (!body.contains("temperature")) body["temperature"] = 0;
    const server::HttpReply reply = Post(body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json::parse(reply.body);
  }
  json Choice(const json& body) { return Complete(body)["choices"].at(0); }
  std::string ErrorOf(const json& body) {
    const server::HttpReply reply = Post(body);
    EXPECT_EQ(reply.status, 400) << reply.body;
    return json::parse(reply.body)["error"]["message"];
  }
  // The chunks of a stream, without [DONE].
  std::vector<json> Stream(json body) {
    body["stream"] = true;
    if (!body.contains("temperature")) body["temperature"] = 0;
    const server::HttpReply reply = Post(body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    std::string text;
    reply.stream([&text](std::string_view bytes) {
      text += bytes;
      return true;
    });
    std::vector<json> chunks;
    size_t begin = 0;
    for (size_t end = text.find("\n\n"); end != std::string::npos; end = text.find("\n\n", begin)) {
      const std::string data = text.substr(begin + 6, end - begin - 6);
      begin = end + 2;
      if (data != "[DONE]") chunks.push_back(json::parse(data));
    }
    return chunks;
  }
  // Makes `id` follow any text.
  static json Forced(int32_t id) { return {{std::to_string(id), 100}}; }
};

TEST_F(OpenAiCompletionTest, AnEndThatComesFirstHasAnEntry) {
  const json body = {{"prompt", "abcd"},
                     {"echo", true},
                     {"logprobs", 1},
                     {"max_tokens", 1},
                     {"logit_bias", Forced(kEosId)}};
  const json choice = Choice(body);
  EXPECT_EQ(choice["text"], "abcd");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], nullptr);
  const json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"a", "b", "c", "d", "<|end|>"}));
  EXPECT_EQ(logprobs["token_logprobs"].size(), 5U);
  EXPECT_TRUE(logprobs["token_logprobs"][4].is_number());
  EXPECT_EQ(logprobs["top_logprobs"].size(), 5U);
  EXPECT_TRUE(logprobs["top_logprobs"][4].contains("<|end|>"));
  EXPECT_EQ(logprobs["text_offset"], json({0, 1, 2, 3, 4}));
}

TEST_F(OpenAiCompletionTest, AnEndLaterOnHasAnEntryAndTheTextDoesNotGrow) {
  const json free = Choice(
      {{"prompt", "a"}, {"max_tokens", 6}, {"ignore_eos", true}, {"return_token_ids", true}});
  const int32_t stop = free["token_ids"][3];
  const auto first = std::find(free["token_ids"].begin(), free["token_ids"].end(), stop) -
                     free["token_ids"].begin();
  const json body = {{"prompt", "a"}, {"max_tokens", 6},          {"ignore_eos", true},
                     {"logprobs", 0}, {"stop_token_ids", {stop}}, {"return_token_ids", true}};
  const json choice = Choice(body);
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], stop);
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), static_cast<size_t>(first) + 1);
  EXPECT_EQ(choice["token_ids"].size(), static_cast<size_t>(first) + 1);
  EXPECT_EQ(choice["token_ids"].back(), stop);
  EXPECT_EQ(free["text"].get<std::string>().find(choice["text"].get<std::string>()), 0U);
  // The chunks of a stream hold the same.
  json tokens = json::array();
  for (const json& chunk : Stream(body)) {
    for (const json& token : chunk["choices"][0]["logprobs"]["tokens"]) tokens.push_back(token);
  }
  EXPECT_EQ(tokens, choice["logprobs"]["tokens"]);
}

TEST_F(OpenAiCompletionTest, LogprobsThatAreAskedForAreAnObjectThoughEmpty) {
  const json choice = Choice({{"prompt", "abcd"}, {"logprobs", 1}, {"max_tokens", 0}});
  EXPECT_EQ(choice["logprobs"], (json{{"tokens", json::array()},
                                      {"token_logprobs", json::array()},
                                      {"top_logprobs", json::array()},
                                      {"text_offset", json::array()}}));
  EXPECT_EQ(Choice({{"prompt", "abcd"}, {"max_tokens", 1}})["logprobs"], nullptr);
}

TEST_F(OpenAiCompletionTest, TextOffsetsArePlacesInTheText) {
  const std::string text =
      "A\xF0\x9F\x98\x80"
      "BC";
  const json expected = {0, 1, 1, 1, 1, 2, 3};
  for (const json& prompt : {json(text), json(IdsOf(text))}) {
    const json choice =
        Choice({{"prompt", prompt}, {"echo", true}, {"logprobs", 0}, {"max_tokens", 0}});
    EXPECT_EQ(choice["text"], text);
    EXPECT_EQ(choice["logprobs"]["text_offset"], expected);
  }
  // A character that the output completes belongs to the output.
  const std::string part = text.substr(0, 3);
  for (const bool echo : {false, true}) {
    const json body = {{"prompt", IdsOf(part)},
                       {"echo", echo},
                       {"logprobs", 0},
                       {"max_tokens", 1},
                       {"logit_bias", Forced(0x98 + 1)}};
    const json choice = Choice(body);
    EXPECT_EQ(choice["text"], echo ? "A\uFFFD" : "\uFFFD");
    EXPECT_EQ(choice["logprobs"]["text_offset"], echo ? json({0, 1, 1, 1}) : json({0}));
  }
}

TEST_F(OpenAiCompletionTest, OffsetsOfAStreamGoOn) {
  const json body = {{"prompt", "a"},      {"logprobs", 0},    {"max_tokens", 40},
                     {"ignore_eos", true}, {"temperature", 1}, {"seed", 3}};
  const json whole = Choice(body);
  json offsets = json::array();
  for (const json& chunk : Stream(body)) {
    for (const json& offset : chunk["choices"][0]["logprobs"]["text_offset"]) {
      offsets.push_back(offset);
    }
  }
  EXPECT_EQ(offsets.size(), 40U);
  EXPECT_EQ(offsets, whole["logprobs"]["text_offset"]);
  EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
  EXPECT_LE(offsets.back(), server::CountCharacters(whole["text"].get<std::string>()));
}

// Lone bytes all look like U+FFFD.
TEST_F(OpenAiCompletionTest, OfTokensThatLookAlikeTheLikeliestStands) {
  const json body = {{"prompt", "a"}, {"logprobs", 20}, {"max_tokens", 1}, {"ignore_eos", true}};
  json by_id = body;
  by_id["return_tokens_as_token_ids"] = true;
  const json ids = Choice(by_id)["logprobs"];
  ASSERT_EQ(ids["top_logprobs"][0].size(), 20U);  // all are there
  EXPECT_EQ(ids["tokens"][0].get<std::string>().find("token_id:"), 0U);
  std::map<std::string, double> likeliest;  // by the token's text
  for (const auto& [key, logprob] : ids["top_logprobs"][0].items()) {
    const int32_t id = std::stoi(key.substr(9));
    auto bytes = tokenizer_->Decode(std::vector<int32_t>{id}, false);
    std::string text;
    if (bytes.ok()) server::TakeValidUtf8(true, &*bytes, &text);
    const auto [place, is_new] = likeliest.emplace(text, logprob);
    if (!is_new) place->second = std::max(place->second, logprob.get<double>());
  }
  ASSERT_LT(likeliest.size(), 20U) << "no two look alike: the test shows nothing";
  const json shown = Choice(body)["logprobs"]["top_logprobs"][0];
  EXPECT_EQ(shown, json(likeliest));
}

TEST_F(OpenAiCompletionTest, ALogprobOfMinusInfinityIsANumber) {
  server::CompletionChoice choice;
  const float infinity = std::numeric_limits<float>::infinity();
  choice.logprobs = {{.tokens = {"a"},
                      .token_logprobs = {-infinity},
                      .top_logprobs = {{{"a", -infinity}}},
                      .text_offset = {0}}};
  const json written = json::parse(server::CompletionJson({}, {choice}, std::nullopt));
  EXPECT_EQ(written["choices"][0]["logprobs"]["token_logprobs"], json({-9999.0}));
  EXPECT_EQ(written["choices"][0]["logprobs"]["top_logprobs"][0]["a"], -9999.0);
}

TEST_F(OpenAiCompletionTest, AListOfPromptsGivesTheAnswersOfEach) {
  const std::vector<std::string> prompts = {"abc", "a longer prompt", "z"};
  for (const bool ids : {false, true}) {
    json list = json::array();
    for (const std::string& prompt : prompts)
      list.push_back(ids ? json(IdsOf(prompt)) : json(prompt));
    json body = {{"prompt", list}, {"max_tokens", 7}, {"n", 2},           {"echo", true},
                 {"logprobs", 1},  {"seed", 5},       {"temperature", 1}, {"ignore_eos", true}};
    const json answer = Complete(body);
    ASSERT_EQ(answer["choices"].size(), 6U);
    EXPECT_EQ(answer["usage"]["prompt_tokens"], 3 + 15 + 1);
    EXPECT_EQ(answer["usage"]["completion_tokens"], 6 * 7);
    for (size_t i = 0; i < 6; ++i) {
      json alone = body;
      alone["prompt"] = list[i / 2];
      json expected = Complete(alone)["choices"][i % 2];
      expected["index"] = i;
      EXPECT_EQ(answer["choices"][i], expected) << i;
    }
    // Streamed, the pieces of each choice are its text.
    std::vector<std::string> texts(6);
    for (const json& chunk : Stream(body)) {
      const json& piece = chunk["choices"][0];
      texts[piece["index"].get<size_t>()] += piece["text"].get<std::string>();
    }
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(texts[i], answer["choices"][i]["text"]);
  }
  EXPECT_EQ(engine_->load().blocks_used, 0);
}

TEST_F(OpenAiCompletionTest, AListIsRefusedWholeAndThePromptNamed) {
  EXPECT_EQ(ErrorOf({{"prompt", {"a", ""}}, {"max_tokens", 1}}),
            "prompt[1]: empty text; at least one character is needed");
  EXPECT_EQ(ErrorOf({{"prompt", {{1}, {2, 900}}}, {"max_tokens", 1}}),
            "prompt[1]: id 900 at 1 is not in 0..259");
  EXPECT_EQ(ErrorOf({{"prompt", {"a", 7}}}),
            "prompt[1]: expected a string or an array of token ids, got a number");
  EXPECT_EQ(ErrorOf({{"prompt", std::vector<std::string>(65, "a")}}),
            "prompt: 65 prompts is not at most 64");
  EXPECT_EQ(ErrorOf({{"prompt", std::vector<std::string>(33, "a")}, {"n", 2}, {"max_tokens", 1}}),
            "prompt[32]: 33 prompts with n = 2 are over the limit of 64 sequences a request");
  context_.max_prompt_tokens = 5;
  EXPECT_EQ(ErrorOf({{"prompt", {"abc", "def"}}, {"max_tokens", 1}}),
            "prompt: 6 tokens; this server takes at most 5");
}

TEST_F(OpenAiCompletionTest, ScoresAlone) {
  const json body = {{"prompt", "abcd"}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}};
  const json one = Choice(body);
  json none_body = body;
  none_body["max_tokens"] = 0;
  const json answer = Complete(none_body);
  const json& none = answer["choices"][0];
  EXPECT_EQ(none["text"], "abcd");
  EXPECT_EQ(none["finish_reason"], "length");
  EXPECT_EQ(none["logprobs"]["token_logprobs"].size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(none["logprobs"]["token_logprobs"][i], one["logprobs"]["token_logprobs"][i]);
  }
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
}

TEST_F(OpenAiCompletionTest, VllmsParameters) {
  const json allowed = Choice({{"prompt", "a"},
                               {"max_tokens", 30},
                               {"temperature", 5},
                               {"allowed_token_ids", {98, 99}},
                               {"ignore_eos", true}});
  EXPECT_EQ(allowed["text"].get<std::string>().find_first_not_of("ab"), std::string::npos);
  const json barred = Choice({{"prompt", "a"},
                              {"max_tokens", 30},
                              {"temperature", 5},
                              {"allowed_token_ids", {98, 99}},
                              {"ignore_eos", true},
                              {"bad_words", {"ab", " bb"}}});
  const std::string text = barred["text"];
  EXPECT_EQ(text.find("ab"), std::string::npos) << text;
  EXPECT_EQ(text.find("bb"), std::string::npos) << text;

  const json truncated = Complete({{"prompt", "0123456789"},
                                   {"max_tokens", 1},
                                   {"echo", true},
                                   {"truncate_prompt_tokens", 4},
                                   {"return_token_ids", true}});
  EXPECT_EQ(truncated["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(truncated["choices"][0]["text"].get<std::string>().substr(0, 4), "6789");
  EXPECT_EQ(truncated["choices"][0]["prompt_token_ids"], json(IdsOf("6789")));
  const std::string longer(2 * kTinyPositions, 'x');
  EXPECT_EQ(Complete({{"prompt", longer},
                      {"max_tokens", 12},
                      {"ignore_eos", true},
                      {"truncate_prompt_tokens", -1}})["usage"]["prompt_tokens"],
            kTinyPositions - 12);

  const json scored = Choice({{"prompt", "abc"}, {"max_tokens", 1}, {"prompt_logprobs", 2}});
  const json& entries = scored["prompt_logprobs"];
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0], nullptr);
  const json& entry = entries[1].at(std::to_string('b' + 1));
  EXPECT_EQ(entry["decoded_token"], "b");
  EXPECT_TRUE(entry["logprob"].is_number());
  EXPECT_GE(entries[1].size(), 2U);
  EXPECT_EQ(scored["logprobs"], nullptr);
}

// Echoed tokens show as many likeliest tokens as `logprobs` says, with any `prompt_logprobs`.
TEST_F(OpenAiCompletionTest, PromptLogprobsAndEchoHaveCountsOfTheirOwn) {
  const json choice = Choice({{"prompt", "abc"},
                              {"max_tokens", 1},
                              {"echo", true},
                              {"logprobs", 1},
                              {"prompt_logprobs", 5}});
  EXPECT_LE(choice["logprobs"]["top_logprobs"][1].size(), 2U);
  EXPECT_GE(choice["prompt_logprobs"][1].size(), 5U);
  EXPECT_EQ(ErrorOf({{"prompt", "abc"}, {"echo", true}, {"logprobs", 5}, {"prompt_logprobs", -1}}),
            "prompt_logprobs: -1 is not in 0..20");
}

TEST_F(OpenAiCompletionTest, SpecialTokensInTheTextAreShownOnRequest) {
  const json body = {
      {"prompt", "a"}, {"max_tokens", 2}, {"ignore_eos", true}, {"logit_bias", Forced(0)}};
  EXPECT_EQ(Choice(body)["text"], "");
  json shown = body;
  shown["skip_special_tokens"] = false;
  EXPECT_EQ(Choice(shown)["text"], "<|end|><|end|>");
}

TEST_F(OpenAiCompletionTest, AStopStringThatIsTheTextOfASpecialTokenStopsThere) {
  for (const bool skip : {true, false}) {
    for (const bool include : {false, true}) {
      const json body = {{"prompt", "a"},
                         {"max_tokens", 5},
                         {"ignore_eos", true},
                         {"logit_bias", Forced(0)},
                         {"stop", {"<|end|>"}},
                         {"skip_special_tokens", skip},
                         {"include_stop_str_in_output", include}};
      const json choice = Choice(body);
      EXPECT_EQ(choice["text"], include ? "<|end|>" : "");
      EXPECT_EQ(choice["finish_reason"], "stop");
      EXPECT_EQ(choice["stop_reason"], "<|end|>");
    }
  }
  // A stop string does not count before min_tokens.
  const json choice = Complete({{"prompt", "a"},
                                {"max_tokens", 5},
                                {"ignore_eos", true},
                                {"min_tokens", 3},
                                {"logit_bias", Forced(0)},
                                {"stop", "<|end|>"}});
  EXPECT_EQ(choice["usage"]["completion_tokens"], 3);
}

// As in vLLM: the text has the text of a stop id, except of a special token that it leaves out.
TEST_F(OpenAiCompletionTest, AStopIdIsInTheTextWhereStopStringsAre) {
  for (const bool include : {false, true}) {
    const json body = {{"prompt", "a"},
                       {"max_tokens", 5},
                       {"stop_token_ids", {'x' + 1}},
                       {"logit_bias", Forced('x' + 1)},
                       {"logprobs", 0},
                       {"include_stop_str_in_output", include}};
    const json choice = Choice(body);
    EXPECT_EQ(choice["text"], include ? "x" : "");
    EXPECT_EQ(choice["stop_reason"], 'x' + 1);
    EXPECT_EQ(choice["logprobs"]["text_offset"], json({0}));
    EXPECT_EQ(Choice({{"prompt", "a"},
                      {"logit_bias", Forced(kEosId)},
                      {"include_stop_str_in_output", include}})["text"],
              "");
  }
}

TEST_F(OpenAiCompletionTest, UsageComesWithEachChunkOnRequest) {
  const json body = {
      {"prompt", "ab"},
      {"max_tokens", 6},
      {"ignore_eos", true},
      {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}};
  int32_t before = 0;
  const std::vector<json> chunks = Stream(body);
  ASSERT_GE(chunks.size(), 2U);
  for (const json& chunk : chunks) {
    ASSERT_TRUE(chunk.contains("usage"));
    EXPECT_EQ(chunk["usage"]["prompt_tokens"], 2);
    EXPECT_GE(chunk["usage"]["completion_tokens"], before);
    before = chunk["usage"]["completion_tokens"];
  }
  EXPECT_EQ(before, 6);
  EXPECT_TRUE(chunks.back()["choices"].empty());
}

TEST_F(OpenAiCompletionTest, TheIdIsTheCallersAndTheEnginesIsItsOwn) {
  EXPECT_EQ(Complete({{"prompt", "a"}, {"max_tokens", 1}})["id"], "cmpl-caller");
  EXPECT_EQ(Complete({{"prompt", "a"}, {"max_tokens", 1}, {"request_id", "mine"}})["id"],
            "cmpl-mine");
  // Two requests of one name run at once.
  server::GenerationRequest request = Text("a", 200);
  request.log_id = "same";
  RecordingClient first(/*prompt_reader=*/true);
  RecordingClient second(/*prompt_reader=*/true);
  const auto one = MustStart(request, &first);
  const auto two = MustStart(request, &second);
  EXPECT_NE(one->id(), two->id());
  EXPECT_TRUE(first.WaitFor("closed"));
  EXPECT_TRUE(second.WaitFor("closed"));
}

}  // namespace
}  // namespace strata::testing::openai_completion_test
