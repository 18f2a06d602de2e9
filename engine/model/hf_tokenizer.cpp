#include "engine/model/hf_tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/base/file_marks.h"
#include "engine/base/json_file.h"
#include "kvcache/base/errors.h"
#include "kvcache/base/json_reader.h"

namespace strata::engine {
namespace {

using nlohmann::json;

constexpr std::string_view kGpt2Special = "<|endoftext|>";
constexpr size_t kMaxFileBytes = size_t{1} << 28;  // published ones have up to 33 MB

bool Exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// The lines of merges.txt, "a b" each.
absl::StatusOr<json> ReadMerges(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  absl::Status status = RefuseLfsPointer(path.string(), text);
  if (status.ok()) status = RefuseByteOrderMark(path.string(), text);
  if (!status.ok()) return status;
  json merges = json::array();
  std::istringstream lines(text);
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    if (std::count(line.begin(), line.end(), ' ') != 1) {
      return InvalidArgument(path.string(), ": line ", number, ": expected two tokens, got ",
                             DescribeJson(line));
    }
    merges.push_back(line);
  }
  return merges;
}

// GPT-2's own special token, unless tokenizer_config.json lists the added tokens.
absl::StatusOr<json> AddedTokens(const json& vocabulary, const json& config,
                                 std::string_view config_name) {
  json tokens = json::array();
  const auto listed = config.is_object() ? config.find("added_tokens_decoder") : config.end();
  if (config.is_object() && listed != config.end() && listed->is_object()) {
    for (auto it = listed->begin(); it != listed->end(); ++it) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(it.key(), &id) || !it->is_object()) {
        return InvalidArgument(config_name,
                               ": added_tokens_decoder: expected ids and objects, got ",
                               DescribeJson(it.key()), ": ", DescribeJson(*it));
      }
      json token = *it;
      token["id"] = id;
      tokens.push_back(std::move(token));
    }
    return tokens;
  }
  const auto it = vocabulary.is_object() ? vocabulary.find(kGpt2Special) : vocabulary.end();
  if (vocabulary.is_object() && it != vocabulary.end()) {
    tokens.push_back({{"id", *it}, {"content", kGpt2Special}, {"special", true}});
  }
  return tokens;
}

// GPT-2's files as a tokenizer.json.
absl::Status ReadGpt2Files(const std::filesystem::path& dir, TokenizerDescription* files) {
  ASSIGN_OR_RETURN(json vocabulary, ReadJsonFile(dir / "vocab.json", kMaxFileBytes));
  ASSIGN_OR_RETURN(json merges, ReadMerges(dir / "merges.txt"));
  json& config = files->config.json;
  ASSIGN_OR_RETURN(json added, AddedTokens(vocabulary, config, files->config.name));

  if (config.is_null() && !added.empty()) {
    config = {{"bos_token", kGpt2Special}, {"eos_token", kGpt2Special}};
  }
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  json& tokenizer = files->tokenizer.json;
  tokenizer["added_tokens"] = std::move(added);
  tokenizer["pre_tokenizer"] = byte_level;
  tokenizer["decoder"] = byte_level;
  tokenizer["model"]["type"] = "BPE";
  tokenizer["model"]["vocab"] = std::move(vocabulary);
  tokenizer["model"]["merges"] = std::move(merges);
  files->tokenizer.name = Concat((dir / "vocab.json").string(), " with merges.txt");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JsonDocument> ReadHfTokenizerConfig(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "tokenizer_config.json";
  JsonDocument config = {path.string(), nullptr};
  if (Exists(path)) {
    ASSIGN_OR_RETURN(config.json, ReadJsonFile(path, kMaxFileBytes));
  }
  return config;
}

absl::StatusOr<TokenizerDescription> ReadHfTokenizer(const std::filesystem::path& dir) {
  TokenizerDescription files;
  ASSIGN_OR_RETURN(files.config, ReadHfTokenizerConfig(dir));
  const std::filesystem::path path = dir / "tokenizer.json";
  if (Exists(path)) {
    files.tokenizer.name = path.string();
    ASSIGN_OR_RETURN(files.tokenizer.json, ReadJsonFile(path, kMaxFileBytes));
    return files;
  }
  if (!Exists(dir / "vocab.json") || !Exists(dir / "merges.txt")) {
    return NotFound(dir.string(), " has neither tokenizer.json nor vocab.json with merges.txt");
  }
  RETURN_IF_ERROR(ReadGpt2Files(dir, &files));
  return files;
}

}  // namespace strata::engine
