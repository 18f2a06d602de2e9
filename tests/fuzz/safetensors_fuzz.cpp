#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/model/architectures.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensors_of.h"

namespace {

// Reads the first and last byte of every tensor of an accepted file: the sanitizer sees a byte
// outside the file. Then compares the names with those of a model of two layers.
void Open(std::string_view file) {
  const auto checkpoint = strata::engine::Checkpoint::FromBytes(file);
  if (!checkpoint.ok()) {
    if (checkpoint.status().message().find('\n') != absl::string_view::npos) std::abort();
    return;
  }
  static const auto spec = strata::engine::ParseModelSpec(
      R"({"model_type":"llama","hidden_size":8,"intermediate_size":8,"vocab_size":8,
          "num_hidden_layers":2,"num_attention_heads":2})");
  unsigned bits = 0;
  for (const std::string& name : (*checkpoint)->Names()) {
    const auto tensor = (*checkpoint)->Find(name);
    if (!tensor.ok() || tensor->bytes == 0) continue;
    bits |= static_cast<unsigned>(tensor->data[0] | tensor->data[tensor->bytes - 1]);
  }
  if (bits > 0xFF) std::abort();
  const auto names = strata::engine::CheckTensorNames("a", **checkpoint, *spec);
  if (names.message().find('\n') != absl::string_view::npos) std::abort();
}

}  // namespace

// Tries the input as a whole file and as a header before eight bytes of data, so that the fuzzer
// need not find the length of the header first.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  Open(input);
  const uint64_t length = size;
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file.append(input).append("12345678");
  Open(file);
  return 0;
}
