#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/support/naive_decoder.h"

namespace strata::testing {

// A tensor of a safetensors file as stored. Tests read goldens and real checkpoints with this, not
// with the loader under test.
struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;

  std::vector<double> Doubles() const;  // F32 or BF16
  std::vector<int32_t> Ints() const;    // I64 or I32
};
using RawTensors = std::map<std::string, RawTensor, std::less<>>;

// Throws if the file is no safetensors file.
RawTensors ReadRawTensors(const std::filesystem::path& file);
NaiveTensors AsNaive(const RawTensors& tensors);

std::string ReadFile(const std::filesystem::path& file);

}  // namespace strata::testing
