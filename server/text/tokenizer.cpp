#include "server/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "engine/base/json_file.h"
#include "kvcache/base/errors.h"
#include "server/base/json.h"
#include "server/base/string_util.h"
#include "server/base/unicode.h"
#include "server/text/added_tokens.h"
#include "server/text/bpe.h"
#include "server/text/normalizer.h"
#include "server/text/post_processor.h"
#include "server/text/pre_tokenizer.h"
#include "server/text/shape_tokenizer.h"
#include "server/text/token_decoder.h"

namespace strata::server {

namespace {

constexpr size_t kMaxTextBytes = size_t{64} << 20;

// Puts the file's name in front of a message about one of its fields.
absl::Status InFile(std::string_view file, const absl::Status& status) {
  return absl::Status(status.code(), Concat(file, ": ", std::string(status.message())));
}

}  // namespace

struct Tokenizer::Parts {
  Parts(Bpe bpe, TokenDecoder token_decoder)
      : model(std::move(bpe)), decoder(std::move(token_decoder)) {}

  // Reading; both leave errors in the reader's status.
  static absl::StatusOr<std::unique_ptr<Parts>> FromJson(JsonReader root);
  absl::Status AddTokens(JsonReader root);
  absl::Status ApplyConfig(JsonReader config);
  std::optional<int32_t> ReadTokenName(JsonReader* config, std::string_view name) const;

  std::optional<int32_t> Find(std::string_view token) const;

  // Encoding of a section without added tokens, then of a normalized one.
  absl::Status EncodeSection(std::string_view section, bool at_start, bool parse_special,
                             Bpe::Scratch* scratch, std::vector<int32_t>* ids) const;
  absl::Status EncodeWords(std::string_view text, bool at_start, Bpe::Scratch* scratch,
                           std::vector<int32_t>* ids) const;

  Bpe model;
  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  TokenDecoder decoder;
  TokenFrame frame;
  AddedTokenMatcher written_tokens;     // searched in the original text
  AddedTokenMatcher normalized_tokens;  // searched after normalization
  StringIdMap added_ids;
  absl::flat_hash_set<int32_t> special_ids;
  absl::flat_hash_map<int32_t, std::string> token_texts;  // of the model and of added tokens
  int32_t vocab_size = 0;
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::string config_text;  // tokenizer_config.json; may be empty
};

absl::StatusOr<std::unique_ptr<Tokenizer::Parts>> Tokenizer::Parts::FromJson(JsonReader root) {
  if (root.String("version", "1.0") != "1.0") root.FailExpected("version", "\"1.0\"");
  if (!root.ok()) return root.status();
  JsonReader model_object = root.Object("model");
  if (!root.ok()) return root.status();
  ASSIGN_OR_RETURN(Bpe model, Bpe::FromJson(model_object));
  ASSIGN_OR_RETURN(TokenDecoder decoder, TokenDecoder::FromJson(root));
  ASSIGN_OR_RETURN(std::unique_ptr<Normalizer> normalizer, Normalizer::FromJson(root));
  ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> pre_tokenizer, PreTokenizer::FromJson(root));
  ASSIGN_OR_RETURN(TokenFrame frame, TokenFrame::FromJson(root));

  auto parts = std::make_unique<Parts>(std::move(model), std::move(decoder));
  parts->normalizer = std::move(normalizer);
  parts->pre_tokenizer = std::move(pre_tokenizer);
  parts->frame = std::move(frame);
  RETURN_IF_ERROR(parts->AddTokens(root));
  return parts;
}

absl::Status Tokenizer::Parts::AddTokens(JsonReader root) {
  for (const auto& [text, id] : model.vocabulary()) {
    token_texts.emplace(id, text);
    vocab_size = std::max(vocab_size, id + 1);
  }
  ASSIGN_OR_RETURN(const std::vector<AddedToken> tokens, ReadAddedTokens(root));
  for (const AddedToken& token : tokens) {
    // The library would renumber such a token; a file with one has mixed up its ids.
    const std::optional<int32_t> model_id = model.Find(token.content);
    if ((model_id && *model_id != token.id) ||
        token_texts.emplace(token.id, token.content).first->second != token.content) {
      return root.Fail("added_tokens",
                       Concat("id ", token.id, " of ", DescribeJson(nlohmann::json(token.content)),
                              " contradicts model.vocab"));
    }
    vocab_size = std::max(vocab_size, token.id + 1);
    added_ids.emplace(token.content, token.id);
    if (token.special) special_ids.insert(token.id);
    if (!token.normalized) {
      written_tokens.Add(token, token.content);
      continue;
    }
    std::string pattern = token.content;
    if (normalizer != nullptr) {
      const absl::Status status = normalizer->Apply(MaxGrownBytes(0), &pattern);
      if (!status.ok()) return root.Fail("added_tokens", std::string(status.message()));
    }
    normalized_tokens.Add(token, pattern);
  }
  return absl::OkStatus();
}

// A token's name: "<s>" or {"content": "<s>"}.
std::optional<int32_t> Tokenizer::Parts::ReadTokenName(JsonReader* config,
                                                       std::string_view name) const {
  if (!config->Has(name)) return std::nullopt;
  const std::string token = config->Value(name).is_object() ? config->Object(name).String("content")
                                                            : config->String(name);
  const std::optional<int32_t> id = Find(token);
  if (config->ok() && !id) config->FailExpected(name, "a token of the vocabulary");
  return id;
}

absl::Status Tokenizer::Parts::ApplyConfig(JsonReader config) {
  bos_id = ReadTokenName(&config, "bos_token");
  eos_id = ReadTokenName(&config, "eos_token");
  // A given flag decides whether its token is there, and puts it at the right end.
  const auto apply = [&config](std::string_view flag, std::optional<int32_t> id, bool in_front,
                               std::vector<int32_t>* side) {
    const std::optional<bool> wanted = config.OptionalBool(flag);
    if (!wanted) return;
    if (*wanted && !id) config.Fail(flag, "true without the token's name");
    if (!id) return;
    std::erase(*side, *id);
    if (*wanted) side->insert(in_front ? side->begin() : side->end(), *id);
  };
  apply("add_bos_token", bos_id, /*in_front=*/true, &frame.before);
  apply("add_eos_token", eos_id, /*in_front=*/false, &frame.after);
  return config.status();
}

std::optional<int32_t> Tokenizer::Parts::Find(std::string_view token) const {
  const auto it = added_ids.find(token);
  return it != added_ids.end() ? std::optional<int32_t>(it->second) : model.Find(token);
}

absl::Status Tokenizer::Parts::EncodeSection(std::string_view section, bool at_start,
                                             bool parse_special, Bpe::Scratch* scratch,
                                             std::vector<int32_t>* ids) const {
  std::string text(section);
  if (normalizer != nullptr) {
    RETURN_IF_ERROR(normalizer->Apply(MaxGrownBytes(text.size()), &text));
  }
  for (const TextSection& part : normalized_tokens.Split(text, parse_special)) {
    if (part.token) {
      ids->push_back(*part.token);
      continue;
    }
    const auto words = std::string_view(text).substr(part.range.begin, part.range.size());
    RETURN_IF_ERROR(EncodeWords(words, at_start && part.range.begin == 0, scratch, ids));
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Parts::EncodeWords(std::string_view text, bool at_start,
                                           Bpe::Scratch* scratch, std::vector<int32_t>* ids) const {
  PreTokenizedText words{std::string(text), {{0, text.size()}}, at_start};
  if (pre_tokenizer != nullptr) {
    RETURN_IF_ERROR(pre_tokenizer->Apply(&words));
  }
  for (const TextRange& word : words.pieces) {
    const auto content = std::string_view(words.text).substr(word.begin, word.size());
    RETURN_IF_ERROR(model.Encode(content, scratch, ids));
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Make(
    const engine::TokenizerDescription& description) {
  const engine::JsonDocument& tokenizer = description.tokenizer;
  const engine::JsonDocument& config = description.config;
  absl::Status status;
  const nlohmann::json made =
      description.words > 0 ? ShapeTokenizer(description.words) : nlohmann::json();
  absl::StatusOr<std::unique_ptr<Parts>> parts =
      Parts::FromJson(JsonReader(description.words > 0 ? made : tokenizer.json, "", &status));
  if (!parts.ok()) return InFile(tokenizer.name, parts.status());
  if (!config.json.is_null()) {
    status = (*parts)->ApplyConfig(JsonReader(config.json, "", &status));
    if (!status.ok()) return InFile(config.name, status);
    (*parts)->config_text = JsonLine(config.json);
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(*std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json) {
  engine::TokenizerDescription files = {.tokenizer = {"tokenizer.json", {}},
                                        .config = {"tokenizer_config.json", {}}};
  ASSIGN_OR_RETURN(files.tokenizer.json, engine::ParseJson(files.tokenizer.name, tokenizer_json));
  if (!tokenizer_config_json.empty()) {
    ASSIGN_OR_RETURN(files.config.json,
                     engine::ParseJson(files.config.name, tokenizer_config_json));
  }
  return Make(files);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  RETURN_IF_ERROR(CheckTextSize(text.size(), kMaxTextBytes));
  if (const std::optional<size_t> offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(Concat("the text is not UTF-8 at byte ", *offset));
  }
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = parts_->frame.before;
  Bpe::Scratch scratch;
  for (const TextSection& part : parts_->written_tokens.Split(text, options.parse_special)) {
    if (part.token) {
      ids.push_back(*part.token);
      continue;
    }
    RETURN_IF_ERROR(parts_->EncodeSection(text.substr(part.range.begin, part.range.size()),
                                          part.range.begin == 0, options.parse_special, &scratch,
                                          &ids));
  }
  const size_t before = options.add_special_tokens ? parts_->frame.before.size() : 0;
  if (options.add_special_tokens) {
    ids.insert(ids.end(), parts_->frame.after.begin(), parts_->frame.after.end());
  }
  if (options.most_tokens > 0 && ids.size() > options.most_tokens) {
    const size_t dropped = ids.size() - options.most_tokens;
    const size_t first = std::min(before, options.most_tokens);
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(first);
    ids.erase(begin, begin + static_cast<std::ptrdiff_t>(dropped));
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool skip_special) const {
  std::string text;
  TokenDecoderStream stream(parts_->decoder);
  for (const int32_t id : ids) {
    if (id < 0 || id >= parts_->vocab_size) {
      return absl::InvalidArgumentError(
          Concat("token id ", id, " is not in [0, ", parts_->vocab_size, ")"));
    }
    if (skip_special && IsSpecial(id)) continue;
    const std::string_view token = TokenText(id);
    if (!token.empty()) stream.Push(token, &text);
  }
  stream.Finish(&text);
  return text;
}

int32_t Tokenizer::vocab_size() const { return parts_->vocab_size; }
std::optional<int32_t> Tokenizer::bos_id() const { return parts_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return parts_->eos_id; }
bool Tokenizer::IsSpecial(int32_t id) const { return parts_->special_ids.contains(id); }

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  return parts_->Find(token);
}

std::string_view Tokenizer::TokenText(int32_t id) const {
  const auto it = parts_->token_texts.find(id);
  return it == parts_->token_texts.end() ? std::string_view() : it->second;
}

const std::string& Tokenizer::config() const { return parts_->config_text; }

const TokenDecoder& Tokenizer::decoder() const { return parts_->decoder; }

}  // namespace strata::server
