#pragma once

#include <filesystem>

#include "tests/support/byte_tokenizer.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::testing {

// A directory with a model of random weights that shares layer 0's values, and its tokenizer.
class TinyModelDir {
 public:
  TinyModelDir() {
    TinyModelOptions options;
    options.vocab_size = kTinyVocab;
    options.max_positions = kTinyPositions;
    options.cross_layer = {{"preset", "svformer"}};
    path_ = WriteModelDir(MakeTinyModel(options), scratch_.path());
    WriteFile(path_ / "tokenizer.json", ByteTokenizerJson());
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  ScratchDir scratch_;
  std::filesystem::path path_;
};

}  // namespace strata::testing
