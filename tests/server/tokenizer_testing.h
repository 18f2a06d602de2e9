#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/model_source.h"
#include "gtest/gtest.h"
#include "kvcache/base/errors.h"
#include "nlohmann/json.hpp"
#include "server/text/tokenizer.h"

namespace strata::server {

using Ids = std::vector<int32_t>;

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::filesystem::path& dir) {
  ASSIGN_OR_RETURN(const auto source, engine::OpenModel(dir));
  ASSIGN_OR_RETURN(const auto description, source->Tokenizer());
  return Tokenizer::Make(description);
}

inline std::unique_ptr<Tokenizer> Make(const nlohmann::json& tokenizer,
                                       const nlohmann::json& config = nullptr) {
  auto made = Tokenizer::FromJson(tokenizer.dump(), config.is_null() ? "" : config.dump());
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

inline std::string MakeError(const nlohmann::json& tokenizer,
                             const nlohmann::json& config = nullptr) {
  const auto made = Tokenizer::FromJson(tokenizer.dump(), config.is_null() ? "" : config.dump());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(made.status().message());
}

// A model whose tokens are the characters of `characters`, in order from 0, without merges.
inline nlohmann::json CharModel(const std::vector<std::string>& characters) {
  nlohmann::json model = {
      {"type", "BPE"}, {"vocab", nlohmann::json::object()}, {"merges", nlohmann::json::array()}};
  for (size_t i = 0; i < characters.size(); ++i) model["vocab"][characters[i]] = i;
  return model;
}

inline nlohmann::json Split(const nlohmann::json& pattern, std::string_view behavior,
                            bool invert = false) {
  return {{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}};
}

}  // namespace strata::server
