#include "server/text/tokenizer_files.h"

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/base/errors.h"
#include "engine/base/file_marks.h"
#include "engine/base/json_file.h"
#include "server/base/json.h"
#include "server/base/string_util.h"
#include "server/text/bpe.h"

namespace strata::server {
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
  ASSIGN_OR_RETURN(const std::string text, engine::ReadFile(path, kMaxFileBytes));
  absl::Status status = engine::RefuseLfsPointer(path.string(), text);
  if (status.ok()) status = engine::RefuseByteOrderMark(path.string(), text);
  if (!status.ok()) return status;
  json merges = json::array();
  std::istringstream lines(text);
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    if (std::count(line.begin(), line.end(), ' ') != 1) {
      return absl::InvalidArgumentError(Concat(path.string(), ": line ", number,
                                               ": expected two tokens, got ",
                                               DescribeJson(json(line))));
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
        return absl::InvalidArgumentError(
            Concat(config_name, ": added_tokens_decoder: expected ids and objects, got ",
                   DescribeJson(json(it.key())), ": ", DescribeJson(*it)));
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

absl::Status ReadGpt2Files(const std::filesystem::path& dir, TokenizerFiles* files) {
  ASSIGN_OR_RETURN(json vocabulary, engine::ReadJsonFile(dir / "vocab.json", kMaxFileBytes));
  ASSIGN_OR_RETURN(json merges, ReadMerges(dir / "merges.txt"));
  ASSIGN_OR_RETURN(json added, AddedTokens(vocabulary, files->config, files->config_name));

  if (files->config.is_null() && !added.empty()) {
    files->config = {{"bos_token", kGpt2Special}, {"eos_token", kGpt2Special}};
  }
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  files->tokenizer["added_tokens"] = std::move(added);
  files->tokenizer["pre_tokenizer"] = byte_level;
  files->tokenizer["decoder"] = byte_level;
  files->tokenizer["model"]["type"] = "BPE";
  files->tokenizer["model"]["vocab"] = std::move(vocabulary);
  files->tokenizer["model"]["merges"] = std::move(merges);
  files->tokenizer_name = Concat((dir / "vocab.json").string(), " with merges.txt");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::filesystem::path& dir) {
  TokenizerFiles files;
  const std::filesystem::path config_path = dir / "tokenizer_config.json";
  files.config_name = config_path.string();
  if (Exists(config_path)) {
    ASSIGN_OR_RETURN(json config, engine::ReadJsonFile(config_path, kMaxFileBytes));
    files.config = std::move(config);
  }
  const std::filesystem::path tokenizer_path = dir / "tokenizer.json";
  if (Exists(tokenizer_path)) {
    ASSIGN_OR_RETURN(json tokenizer, engine::ReadJsonFile(tokenizer_path, kMaxFileBytes));
    files.tokenizer = std::move(tokenizer);
    files.tokenizer_name = tokenizer_path.string();
    return files;
  }
  if (!Exists(dir / "vocab.json") || !Exists(dir / "merges.txt")) {
    return absl::NotFoundError(
        Concat(dir.string(), " has neither tokenizer.json nor vocab.json with merges.txt"));
  }
  RETURN_IF_ERROR(ReadGpt2Files(dir, &files));
  return files;
}

}  // namespace strata::server
