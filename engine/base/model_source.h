#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace strata::engine {

class TensorSource;

// A part of a model that is JSON. `name` stands for it in errors: a path, or what a reader of the
// error will find.
struct JsonDocument {
  std::string name = {};
  nlohmann::json json = {};  // null: there is none
};

// A tokenizer as Hugging Face's library describes it, or one without files.
struct TokenizerDescription {
  JsonDocument tokenizer = {};  // as in tokenizer.json; made of vocab.json and merges.txt if these
                                // are all there is
  JsonDocument config = {};     // as in tokenizer_config.json
  int32_t words = 0;            // of a model without files: made-up tokens; else 0
};

// A model as it is stored: the only reader of its files. What it answers is in Hugging
// Face's terms, whatever the format. Any thread may ask.
class ModelSource {
 public:
  virtual ~ModelSource() = default;

  // The model's name if no other is given: "smollm-135m", "ORG/NAME".
  virtual std::string name() const = 0;
  // For errors: the folder or file.
  virtual std::string place() const = 0;
  // config.json. NOT_FOUND if there is none; INVALID_ARGUMENT, as from the others, if it cannot be
  // read.
  virtual absl::StatusOr<JsonDocument> Config() const = 0;
  // generation_config.json; null if there is none.
  virtual absl::StatusOr<JsonDocument> GenerationConfig() const = 0;
  // NOT_FOUND if the model has no tokenizer.
  virtual absl::StatusOr<TokenizerDescription> Tokenizer() const = 0;
  // The Jinja template of chats, "" if there is none.
  virtual absl::StatusOr<std::string> ChatTemplate() const = 0;
  // The weights; whoever asked lets go of them.
  virtual absl::StatusOr<std::unique_ptr<TensorSource>> OpenTensors() const = 0;
};

// The model in the folder `dir`, or, if `shape` is not empty, a published shape with random
// weights: INVALID_ARGUMENT if none has that name. A folder is read part by part, as it is asked.
absl::StatusOr<std::shared_ptr<const ModelSource>> OpenModel(const std::filesystem::path& dir,
                                                             const std::string& shape = {});

}  // namespace strata::engine
