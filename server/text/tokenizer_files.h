#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace strata::server {

// The documents that a tokenizer is built from.
struct TokenizerFiles {
  nlohmann::json tokenizer;    // as in tokenizer.json
  nlohmann::json config;       // as in tokenizer_config.json; null if there is none
  std::string tokenizer_name;  // for messages
  std::string config_name;
};

// Reads a model's folder as Tokenizer::Load says, and with its errors.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::filesystem::path& dir);

}  // namespace strata::server
