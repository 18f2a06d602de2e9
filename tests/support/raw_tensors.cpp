#include "tests/support/raw_tensors.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "nlohmann/json.hpp"

namespace strata::testing {
namespace {

template <typename T>
std::vector<T> Elements(const std::string& bytes) {
  std::vector<T> elements(bytes.size() / sizeof(T));
  std::memcpy(elements.data(), bytes.data(), elements.size() * sizeof(T));
  return elements;
}

}  // namespace

std::vector<double> RawTensor::Doubles() const {
  if (dtype == "F32") {
    const std::vector<float> elements = Elements<float>(bytes);
    return {elements.begin(), elements.end()};
  }
  if (dtype != "BF16") throw std::runtime_error("raw tensor: dtype " + dtype);
  std::vector<double> values;
  for (const uint16_t bits : Elements<uint16_t>(bytes)) {
    values.push_back(std::bit_cast<float>(uint32_t{bits} << 16));
  }
  return values;
}

std::vector<int32_t> RawTensor::Ints() const {
  if (dtype == "I32") return Elements<int32_t>(bytes);
  if (dtype != "I64") throw std::runtime_error("raw tensor: dtype " + dtype);
  std::vector<int32_t> values;
  for (const int64_t value : Elements<int64_t>(bytes)) {
    values.push_back(static_cast<int32_t>(value));
  }
  return values;
}

RawTensors ReadRawTensors(const std::filesystem::path& file) {
  const std::string content = ReadFile(file);
  uint64_t header_size = 0;
  if (content.size() < sizeof(header_size)) throw std::runtime_error("too short: " + file.string());
  std::memcpy(&header_size, content.data(), sizeof(header_size));
  const nlohmann::json header =
      nlohmann::json::parse(content.substr(sizeof(header_size), header_size));
  RawTensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry.at("data_offsets").at(0).get<size_t>();
    const auto end = entry.at("data_offsets").at(1).get<size_t>();
    tensors[name] = {
        .dtype = entry.at("dtype"),
        .shape = entry.at("shape"),
        .bytes = content.substr(sizeof(header_size) + header_size + begin, end - begin)};
  }
  return tensors;
}

NaiveTensors AsNaive(const RawTensors& tensors) {
  NaiveTensors naive;
  for (const auto& [name, tensor] : tensors) {
    naive[name] = {.shape = tensor.shape, .data = tensor.Doubles()};
  }
  return naive;
}

std::string ReadFile(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace strata::testing
