#include "server/openai/openai_tokenize.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/server/generation_testing.h"

namespace strata::testing::openai_tokenize_test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

// The tokenizer has the 256 bytes, byte b as id b + 1, and <|end|> as id 0.
class OpenAiTokenizeTest : public GenerationTest {
 protected:
  server::HttpReply Post(const std::string& path, const std::string& body) const {
    server::HttpCall call;
    call.body = body;
    const server::OpenAiTokenize api(context_, &models_);
    return path == "/tokenize" ? api.Tokenize(call) : api.Detokenize(call);
  }
  json Answer(const std::string& path, const json& body) const {
    const server::HttpReply reply = Post(path, body.dump());
    EXPECT_EQ(reply.status, 200) << reply.body;
    EXPECT_EQ(reply.content_type, "application/json");
    return json::parse(reply.body);
  }
  json Error(const std::string& path, const std::string& body, int status = 400) const {
    const server::HttpReply reply = Post(path, body);
    EXPECT_EQ(reply.status, status) << reply.body;
    return json::parse(reply.body)["error"];
  }
  json Info(const std::string& config) {
    auto tokenizer = server::Tokenizer::FromJson(ByteTokenizerJson(), config);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    context_.tokenizer = tokenizer->get();
    const server::HttpReply reply = server::OpenAiTokenize(context_, &models_).Info();
    context_.tokenizer = tokenizer_.get();
    EXPECT_EQ(reply.status, 200);
    return json::parse(reply.body);
  }

  const server::ServedModels models_{{"tiny", "org/tiny"}, kTinyPositions};
};

TEST_F(OpenAiTokenizeTest, TokensAsVllmAnswersThem) {
  EXPECT_EQ(Answer("/tokenize", {{"prompt", "ab"}}), json({{"count", 2},
                                                           {"max_model_len", kTinyPositions},
                                                           {"tokens", {'a' + 1, 'b' + 1}},
                                                           {"token_strs", nullptr}}));
  const json full = Answer("/tokenize", {{"model", "org/tiny"},
                                         {"prompt", "a \xc3\xa9<|end|>"},
                                         {"add_special_tokens", false},
                                         {"return_token_strs", true}});
  EXPECT_EQ(full["tokens"], json({'a' + 1, ' ' + 1, 0xc3 + 1, 0xa9 + 1, kEosId}));
  EXPECT_EQ(full["token_strs"], json({"a", "\xc4\xa0", "\xc3\x83", "\xc2\xa9", "<|end|>"}));
  EXPECT_EQ(full["count"], 5);
  EXPECT_EQ(Answer("/tokenize", {{"prompt", ""}, {"messages", nullptr}})["tokens"], json::array());
}

TEST_F(OpenAiTokenizeTest, SpecialTokensAreAddedUnlessToldOtherwise) {
  auto tokenizer = server::Tokenizer::FromJson(ByteTokenizerJson(),
                                               R"({"bos_token":"<|end|>","add_bos_token":true})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  context_.tokenizer = tokenizer->get();
  EXPECT_EQ(Answer("/tokenize", {{"prompt", "a"}})["tokens"], json({kEosId, 'a' + 1}));
  EXPECT_EQ(Answer("/tokenize", {{"prompt", "a"}, {"add_special_tokens", false}})["tokens"],
            json({'a' + 1}));
}

TEST_F(OpenAiTokenizeTest, TextOfTokens) {
  const json both = {{"model", "tiny"}, {"tokens", {'a' + 1, kEosId, 0xc3 + 1, 0xa9 + 1}}};
  EXPECT_EQ(Answer("/detokenize", both), json({{"prompt", "a<|end|>\xc3\xa9"}}));
  EXPECT_EQ(Answer("/detokenize", {{"tokens", json::array()}}), json({{"prompt", ""}}));
  EXPECT_EQ(Answer("/detokenize", {{"tokens", {0xc3 + 1}}}), json({{"prompt", "\xef\xbf\xbd"}}));
  const std::string text = "any text, \xf0\x9f\x98\x80";
  const json tokens = Answer("/tokenize", {{"prompt", text}})["tokens"];
  EXPECT_EQ(Answer("/detokenize", {{"tokens", tokens}})["prompt"], text);
}

TEST_F(OpenAiTokenizeTest, RefusesByNameAndRepeatsNoText) {
  const std::vector<std::pair<std::string, std::string>> tokenize = {
      {R"({"prompt":)", "the body: not JSON, the error is at byte 11 of 10"},
      {R"(["secret"])", "document: expected an object, got an array"},
      {R"("secret")", "document: expected an object, got a string"},
      {R"({})", "prompt: expected a string, got null"},
      {R"({"prompt":["secret"]})", "prompt: expected a string, got an array"},
      {R"({"prompt":{"secret":1}})", "prompt: expected a string, got an object"},
      {R"({"prompt":"a","add_special_tokens":1})",
       "add_special_tokens: expected true or false, got 1"},
      {R"({"prompt":"a","add_specials":true})", "add_specials: not recognised"},
      {R"({"messages":[{"role":"user","content":"secret"}]})", "messages: not supported yet"},
      {R"({"prompt":"a","chat_template":"secret"})", "chat_template: not supported yet"},
  };
  for (const auto& [body, message] : tokenize) {
    const json error = Error("/tokenize", body);
    EXPECT_EQ(error["message"], message) << body;
    EXPECT_THAT(error.dump(), Not(HasSubstr("secret")));
    EXPECT_EQ(error["type"], "invalid_request_error");
  }
  const std::vector<std::pair<std::string, std::string>> detokenize = {
      {R"({})", "tokens: expected an array of token ids, got null"},
      {R"({"tokens":"secret"})", "tokens: expected an array of token ids, got a string"},
      {R"({"tokens":[1,"secret"]})", "tokens: expected token ids, got a string at 1"},
      {R"({"tokens":[1.5]})", "tokens: expected token ids, got another number at 0"},
      {R"({"tokens":[-1]})", "tokens: expected token ids, got another number at 0"},
      {R"({"tokens":[4294967297]})", "tokens: expected token ids, got another number at 0"},
      {R"({"tokens":[1,257]})", "tokens: token id 257 is not in [0, 257)"},
      {R"({"tokens":[1],"skip_special_tokens":true})", "skip_special_tokens: not recognised"},
  };
  for (const auto& [body, message] : detokenize) {
    const json error = Error("/detokenize", body);
    EXPECT_EQ(error["message"], message) << body;
    if (body != "{}") {
      EXPECT_EQ(error["param"], message.substr(0, message.find(':')));
    }
  }
  for (const std::string path : {"/tokenize", "/detokenize"}) {
    const json error = Error(path, R"({"model":"gpt-4","prompt":"a","tokens":[1]})", 404);
    EXPECT_EQ(error["message"], "model: \"gpt-4\" is not served here; \"tiny\", \"org/tiny\" are");
    EXPECT_EQ(error["code"], "model_not_found");
    EXPECT_EQ(error["param"], "model");
  }
}

TEST_F(OpenAiTokenizeTest, InfoIsTheConfigWithNamesOfTokens) {
  EXPECT_EQ(Info(R"({
      "tokenizer_class": "LlamaTokenizer", "model_max_length": 1000000000000000019884624838656,
      "bos_token": {"__type": "AddedToken", "content": "<|end|>", "lstrip": false},
      "eos_token": "<|end|>", "pad_token": null, "vocab_file": "/home/somebody/vocab.json",
      "additional_special_tokens": ["<|end|>", {"content": "<|end|>", "special": true}],
      "added_tokens_decoder": {"0": {"content": "<|end|>", "special": true}},
      "chat_template": [{"name": "default", "template": "{{ messages }}"}]})"),
            json({{"tokenizer_class", "LlamaTokenizer"},
                  {"model_max_length", 1e30},
                  {"bos_token", "<|end|>"},
                  {"eos_token", "<|end|>"},
                  {"pad_token", nullptr},
                  {"additional_special_tokens", {"<|end|>", "<|end|>"}},
                  {"added_tokens_decoder", {{"0", "<|end|>"}}},
                  {"chat_template", {{{"name", "default"}, {"template", "{{ messages }}"}}}}}));
}

// The tiny model's end of sequence is id 0.
TEST_F(OpenAiTokenizeTest, InfoWithoutAConfigIsWhatIsKnown) {
  const json known = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                      {"model_max_length", kTinyPositions},
                      {"eos_token", "<|end|>"}};
  EXPECT_EQ(Info(""), known);
  EXPECT_EQ(Info(R"({"tokenizer_class":null})"), known);
}

}  // namespace
}  // namespace strata::testing::openai_tokenize_test
