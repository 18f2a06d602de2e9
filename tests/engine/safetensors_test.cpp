#include "engine/model/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/model/safetensors_header.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/base/errors.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::safetensors_test {
namespace {

using ::strata::testing::SafetensorsBytes;
using ::strata::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTwoTensors[] = R"({"__metadata__":{"format":"pt"},)"
                               R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                               R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}})";

std::string Zeros(size_t count) { return std::string(count, '\0'); }

// An entry "NAME":{...} of a header.
std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return Concat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                ",\"data_offsets\":", offsets, "}");
}

// The message with which a file is refused, "" if it is accepted.
std::string Refusal(const std::string& header, size_t data_bytes) {
  const std::string file = SafetensorsBytes(header, Zeros(data_bytes));
  const auto checkpoint = Checkpoint::FromBytes(file);
  if (checkpoint.ok()) return "";
  EXPECT_EQ(checkpoint.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(checkpoint.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

std::string RefusalOfOne(const std::string& dtype, const std::string& shape,
                         const std::string& offsets, size_t data_bytes) {
  return Refusal(Concat("{", Entry("t", dtype, shape, offsets), "}"), data_bytes);
}

class SafetensorsDirTest : public ::testing::Test {
 protected:
  std::string OpenError() const {
    const auto checkpoint = Checkpoint::Open(dir_);
    return checkpoint.ok() ? "" : std::string(checkpoint.status().message());
  }
  // A shard with one F32 scalar for each name.
  void WriteShard(const std::string& file, const std::vector<std::string>& names) const {
    std::string header;
    for (size_t i = 0; i < names.size(); ++i) {
      if (i > 0) header += ',';
      header += Entry(names[i], "F32", "[]", Concat("[", 4 * i, ",", 4 * i + 4, "]"));
    }
    WriteFile(dir_ / file, SafetensorsBytes(Concat("{", header, "}"), Zeros(4 * names.size())));
  }
  void WriteIndex(const std::string& text) const {
    WriteFile(dir_ / "model.safetensors.index.json", text);
  }

  const strata::testing::ScratchDir scratch_;
  const std::filesystem::path dir_ = scratch_.path();
};

TEST(SafetensorsTest, FindsTensorsInPlace) {
  const float values[] = {1.5F, -2.0F};
  std::string data(reinterpret_cast<const char*>(values), sizeof(values));
  data += std::string("\x80\x3F\x00\x40\x40\x40", 6);
  const std::string file = SafetensorsBytes(kTwoTensors, data);
  const auto checkpoint = Checkpoint::FromBytes(file);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();

  EXPECT_THAT((*checkpoint)->Names(), ElementsAre("a", "b"));
  EXPECT_TRUE((*checkpoint)->Has("a"));
  EXPECT_FALSE((*checkpoint)->Has("__metadata__"));
  const auto a = (*checkpoint)->Find("a");
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->dtype, kernels::ElementType::kF32);
  EXPECT_THAT(a->shape, ElementsAre(2, 1));
  EXPECT_EQ(a->bytes, 8U);
  EXPECT_EQ(std::memcmp(a->data, values, sizeof(values)), 0);
  const auto b = (*checkpoint)->Find("b");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->dtype, kernels::ElementType::kBF16);
  EXPECT_EQ(b->data, a->data + 8);
}

TEST(SafetensorsTest, FindNamesWhatIsWrong) {
  const std::string file =
      SafetensorsBytes(Concat("{", Entry("ids", "I64", "[2]", "[0,16]"), "}"), Zeros(16));
  const auto checkpoint = Checkpoint::FromBytes(file);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto ids = (*checkpoint)->Find("ids");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ids.status().message(), "safetensors: tensor ids is I64, want F32, BF16 or F16");
  const auto none = (*checkpoint)->Find("line\nbreak");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(none.status().message(), "tensor line\\nbreak is missing");
}

TEST(SafetensorsTest, TakesEveryKnownDTypeAtItsSize) {
  const std::vector<std::pair<std::string, int>> sizes = {
      {"F64", 8},     {"F32", 4},         {"F16", 2},         {"BF16", 2},   {"C64", 8},
      {"I64", 8},     {"U64", 8},         {"I32", 4},         {"U32", 4},    {"I16", 2},
      {"U16", 2},     {"I8", 1},          {"U8", 1},          {"BOOL", 1},   {"F8_E4M3", 1},
      {"F8_E5M2", 1}, {"F8_E4M3FNUZ", 1}, {"F8_E5M2FNUZ", 1}, {"F8_E8M0", 1}};
  for (const auto& [dtype, size] : sizes) {
    const std::string bytes = std::to_string(3 * size);
    EXPECT_EQ(RefusalOfOne(dtype, "[3]", "[0," + bytes + "]", static_cast<size_t>(3 * size)), "")
        << dtype;
    EXPECT_NE(RefusalOfOne(dtype, "[4]", "[0," + bytes + "]", static_cast<size_t>(3 * size)), "")
        << dtype;
  }
}

TEST(SafetensorsTest, TakesOddButLawfulFiles) {
  EXPECT_EQ(Refusal("{}", 0), "");
  EXPECT_EQ(Refusal("{}   ", 0), "");                                   // padding
  EXPECT_EQ(RefusalOfOne("F32", "[]", "[0,4]", 4), "");                 // a scalar
  EXPECT_EQ(RefusalOfOne("F32", "[0,7]", "[0,0]", 0), "");              // no elements
  EXPECT_EQ(Refusal(Concat("{", Entry("z", "U8", "[3]", "[0,3]"), ",",  // any order, any alignment
                           Entry("e", "F32", "[0]", "[3,3]"), ",",
                           Entry("a", "F32", "[1]", "[3,7]"), "}"),
                    7),
            "");
}

// The format's own library writes and reads null.
TEST(SafetensorsTest, MetadataMayBeNull) {
  const std::string entry = Entry("t", "F32", "[1]", "[0,4]");
  EXPECT_EQ(Refusal(Concat("{\"__metadata__\":null,", entry, "}"), 4), "");
  EXPECT_EQ(Refusal(Concat("{\"__metadata__\":{},", entry, "}"), 4), "");
  EXPECT_EQ(Refusal("{\"__metadata__\":null}", 0), "");
  EXPECT_EQ(Refusal("{\"__metadata__\":false}", 0),
            "safetensors: __metadata__ is not a map of strings");
}

TEST(SafetensorsTest, RefusesEveryTruncation) {
  const std::string file = SafetensorsBytes(kTwoTensors, Zeros(14));
  for (size_t size = 0; size < file.size(); ++size) {
    // A copy of its own, so that reading past the end is seen.
    const std::vector<char> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    const auto checkpoint = Checkpoint::FromBytes({cut.data(), cut.size()});
    ASSERT_EQ(checkpoint.status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
  EXPECT_FALSE(Checkpoint::FromBytes(file + "x").ok());
}

TEST(SafetensorsTest, NoSingleByteCanDoHarm) {
  const std::string file = SafetensorsBytes(kTwoTensors, Zeros(14));
  for (size_t at = 0; at < file.size(); ++at) {
    for (const char byte : {'\0', '\x7F', '\xFF', '"', '9', '{', ','}) {
      std::string changed = file;
      changed[at] = byte;
      const auto checkpoint = Checkpoint::FromBytes(changed);
      if (!checkpoint.ok()) continue;
      for (const std::string& name : (*checkpoint)->Names()) {
        const auto tensor = (*checkpoint)->Find(name);
        if (!tensor.ok()) continue;
        EXPECT_GE(tensor->data, reinterpret_cast<const std::byte*>(changed.data()));
        EXPECT_LE(tensor->data + tensor->bytes,
                  reinterpret_cast<const std::byte*>(changed.data() + changed.size()));
      }
    }
  }
}

TEST(SafetensorsTest, RefusesLyingHeaderLengths) {
  std::string file = SafetensorsBytes("{}", "");
  const auto with_length = [&file](uint64_t length) {
    std::memcpy(file.data(), &length, sizeof(length));
    const auto checkpoint = Checkpoint::FromBytes(file);
    return std::string(checkpoint.status().message());
  };
  EXPECT_EQ(with_length(3),
            "safetensors: header of 3 bytes, the file has 2 left (truncated file?)");
  EXPECT_EQ(with_length(kMaxHeaderBytes + 1),
            "safetensors: header of 100000001 bytes, the limit is 100000000");
  EXPECT_THAT(with_length(UINT64_MAX), HasSubstr("the limit is"));
  EXPECT_THAT(with_length(0), HasSubstr("not JSON"));
  EXPECT_EQ(Checkpoint::FromBytes("1234").status().message(),
            "safetensors: 4 bytes, too short for a header length of 8");
}

TEST(SafetensorsTest, RefusesHeadersThatAreNotOne) {
  EXPECT_EQ(Refusal("[]", 0), "safetensors: header is not a JSON object");
  EXPECT_EQ(Refusal("{\"a\":}", 0), "safetensors: header: not JSON, the error is at byte 6 of 6");
  EXPECT_THAT(Refusal("{\"\xFF\":1}", 0), HasSubstr("not JSON"));
  EXPECT_THAT(Refusal("{\"a\":1e999}", 0), HasSubstr("beyond the range of float64"));
  EXPECT_THAT(Refusal("{}\"", 0), HasSubstr("not JSON"));
  EXPECT_EQ(Refusal(std::string(10000, '['), 0),
            "safetensors: header: JSON nested deeper than the limit of 32");
  EXPECT_EQ(Refusal("{\"a\":" + std::string(50, '[') + std::string(50, ']') + "}", 0),
            "safetensors: header: JSON nested deeper than the limit of 32");
  const std::string entry = Entry("t", "U8", "[0]", "[0,0]");
  EXPECT_EQ(Refusal("{" + entry + "," + entry + "}", 0), "safetensors: header: key \"t\" twice");
  EXPECT_EQ(Refusal(R"({"__metadata__":["pt"]})", 0),
            "safetensors: __metadata__ is not a map of strings");
  EXPECT_EQ(Refusal(R"({"__metadata__":{"a":1}})", 0),
            "safetensors: __metadata__ is not a map of strings");
}

TEST(SafetensorsTest, RefusesEntriesThatAreNotOne) {
  EXPECT_EQ(Refusal(R"({"t":3})", 0), "safetensors: tensor t is not an object");
  EXPECT_EQ(Refusal(R"({"t":{"dtype":"F32","shape":[]}})", 0),
            "safetensors: tensor t lacks one of dtype, shape, data_offsets");
  EXPECT_EQ(RefusalOfOne("F7", "[]", "[0,4]", 4), "safetensors: tensor t: unknown dtype \"F7\"");
  EXPECT_EQ(Refusal(R"({"t":{"dtype":4,"shape":[],"data_offsets":[0,4]}})", 4),
            "safetensors: tensor t: unknown dtype 4");
  EXPECT_EQ(RefusalOfOne("F32", "4", "[0,4]", 4), "safetensors: tensor t: shape is 4, not a list");
  EXPECT_EQ(RefusalOfOne("F32", "[-1]", "[0,4]", 4),
            "safetensors: tensor t: shape holds -1, want whole numbers from 0");
  EXPECT_EQ(RefusalOfOne("F32", "[1.0]", "[0,4]", 4),
            "safetensors: tensor t: shape holds 1.0, want whole numbers from 0");
  EXPECT_THAT(RefusalOfOne("F32", "[9223372036854775808]", "[0,4]", 4),
              HasSubstr("want whole numbers"));
  EXPECT_EQ(RefusalOfOne("F32", "[1]", "[4]", 4),
            "safetensors: tensor t: data_offsets [4], want [begin, end]");
  EXPECT_EQ(RefusalOfOne("F32", "[1]", "[4,0]", 4),
            "safetensors: tensor t: data_offsets [4,0], want [begin, end]");
}

TEST(SafetensorsTest, RefusesShapesThatTheirBytesBelie) {
  EXPECT_EQ(RefusalOfOne("F32", "[2]", "[0,4]", 4),
            "safetensors: tensor t: shape [2] of F32 takes 8 bytes, data_offsets [0,4] hold 4");
  // 2^62 * 4 elements of 4 bytes is 0 modulo 2^64.
  EXPECT_THAT(RefusalOfOne("F32", "[4611686018427387904,4]", "[0,0]", 0),
              HasSubstr("takes more than 2^63 bytes"));
}

TEST(SafetensorsTest, RefusesDataThatIsNotLaidEndToEnd) {
  EXPECT_EQ(RefusalOfOne("F32", "[1]", "[0,4]", 3),
            "safetensors: tensor t ends at byte 4 of the data, which has 3 (truncated file?)");
  EXPECT_EQ(RefusalOfOne("F32", "[1]", "[0,4]", 5),
            "safetensors: tensors end at byte 4 of the data, which has 5");
  EXPECT_EQ(RefusalOfOne("F32", "[1]", "[4,8]", 8),
            "safetensors: tensor t begins at byte 4 of the data, leaving a hole after 0");
  EXPECT_EQ(Refusal(Concat("{", Entry("a", "U8", "[4]", "[0,4]"), ",",
                           Entry("b", "U8", "[4]", "[3,7]"), "}"),
                    7),
            "safetensors: tensor b begins at byte 3 of the data, inside the one that ends at 4");
  EXPECT_THAT(RefusalOfOne("U8", "[9223372036854775807]", "[0,9223372036854775807]", 8),
              HasSubstr("truncated file?"));
}

TEST_F(SafetensorsDirTest, OpensOneFile) {
  WriteShard("model.safetensors", {"a", "b"});
  const auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->Names(), ElementsAre("a", "b"));
}

// Kilobytes of files named `name` that are resident in this process's memory.
int64_t ResidentKilobytes(const std::string& name) {
  std::ifstream maps("/proc/self/smaps");
  bool wanted = false;
  int64_t sum = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(name) != std::string::npos) wanted = true;
    if (wanted && line.starts_with("Rss:")) {
      sum += std::stoll(line.substr(4));
      wanted = false;
    }
  }
  return sum;
}

TEST_F(SafetensorsDirTest, GivesBackTheMemoryOfWhatWasRead) {
  constexpr size_t kBytes = size_t{1} << 20;
  std::string data(kBytes, '\0');
  for (size_t i = 0; i < kBytes; ++i) data[i] = static_cast<char>(i % 251);
  const std::string header = Concat("{", Entry("t", "F32", "[512,512]", "[0,1048576]"), "}");
  WriteFile(dir_ / "model.safetensors", SafetensorsBytes(header, data));
  const std::string path = (dir_ / "model.safetensors").string();
  const auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const TensorView tensor = *(*checkpoint)->Find("t");
  EXPECT_EQ(std::memcmp(tensor.data, data.data(), kBytes), 0);
  EXPECT_GE(ResidentKilobytes(path), 1024);
  (*checkpoint)->Release(tensor);
  EXPECT_LE(ResidentKilobytes(path), 8) << "a page at either end is not the tensor's alone";
  EXPECT_EQ(std::memcmp(tensor.data, data.data(), kBytes), 0);
}

TEST(SafetensorsTest, KeepsReleasedBytesThatAreInNoFile) {
  std::string data(size_t{1} << 16, 'x');
  const std::string file =
      SafetensorsBytes(Concat("{", Entry("t", "F32", "[128,128]", "[0,65536]"), "}"), data);
  const auto checkpoint = Checkpoint::FromBytes(file);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const TensorView tensor = *(*checkpoint)->Find("t");
  (*checkpoint)->Release(tensor);
  EXPECT_EQ(std::memcmp(tensor.data, data.data(), data.size()), 0);
}

TEST_F(SafetensorsDirTest, OpensShards) {
  WriteShard("model-00001-of-00002.safetensors", {"a", "c"});
  WriteShard("model-00002-of-00002.safetensors", {"b"});
  WriteIndex(R"({"metadata":{"total_size":12},"weight_map":{
      "a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors",
      "c":"model-00001-of-00002.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->Names(), ElementsAre("a", "b", "c"));
  EXPECT_TRUE((*checkpoint)->Find("c").ok());
}

TEST_F(SafetensorsDirTest, NamesMissingFiles) {
  EXPECT_EQ(Checkpoint::Open(dir_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::Open(dir_ / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(
      OpenError(),
      dir_.string() + ": neither model.safetensors nor model.safetensors.index.json is there");
  WriteIndex(R"({"weight_map":{"a":"gone.safetensors"}})");
  EXPECT_EQ(OpenError(), (dir_ / "gone.safetensors").string() + ": No such file or directory");
}

// A clone without git lfs pull has a pointer in place of the one file, of a shard or of the index.
TEST_F(SafetensorsDirTest, CallsALfsPointerThat) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234567890\n";
  const auto refused = [&](const char* file) {
    return Concat((dir_ / file).string(),
                  ": a Git LFS pointer, not the file itself; run git lfs pull");
  };
  WriteIndex(pointer);
  EXPECT_EQ(OpenError(), refused("model.safetensors.index.json"));
  WriteShard("1.safetensors", {"a"});
  WriteFile(dir_ / "2.safetensors", pointer);
  WriteIndex(R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  EXPECT_EQ(OpenError(), refused("2.safetensors"));
  WriteFile(dir_ / "model.safetensors", pointer);
  EXPECT_EQ(OpenError(), refused("model.safetensors"));
}

TEST_F(SafetensorsDirTest, RefusesShardsThatTheIndexBelies) {
  WriteShard("1.safetensors", {"a"});
  WriteShard("2.safetensors", {"a"});
  WriteIndex(R"({"weight_map":{"a":"1.safetensors","b":"1.safetensors"}})");
  EXPECT_EQ(OpenError(), (dir_ / "1.safetensors").string() +
                             ": tensor b, which model.safetensors.index.json says is here, is "
                             "missing");
  WriteIndex(R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  EXPECT_EQ(OpenError(), (dir_ / "2.safetensors").string() + ": tensor a is also in " +
                             (dir_ / "1.safetensors").string());
}

TEST_F(SafetensorsDirTest, RefusesIndexesThatAreNotOne) {
  for (const char* text : {"[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})"}) {
    WriteIndex(text);
    EXPECT_THAT(OpenError(), HasSubstr("no weight_map with tensors in it")) << text;
  }
  WriteIndex("{");
  EXPECT_THAT(OpenError(), HasSubstr("not JSON"));
  for (const char* file : {"\"../a\"", "\"/etc/passwd\"", "\"..\"", "\".\"", "\"\"", "\"a/b\"",
                           R"("a\u0000b")", R"("a\nb")", "3"}) {
    WriteIndex(std::string(R"({"weight_map":{"a":)") + file + "}}");
    EXPECT_THAT(OpenError(), HasSubstr("which is not the name of a file")) << file;
  }
}

TEST_F(SafetensorsDirTest, RefusesWhatIsNotAFile) {
  const auto path = dir_ / "model.safetensors";
  WriteFile(path, "");
  EXPECT_EQ(OpenError(), path.string() + ": the file is empty");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_EQ(OpenError(), path.string() + ": not a file");
  std::filesystem::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(OpenError(), path.string() + ": not a file");
  std::filesystem::remove(path);
  std::filesystem::create_directory(dir_ / "model.safetensors.index.json");
  EXPECT_THAT(OpenError(), HasSubstr("index.json: not a file"));
}

}  // namespace
}  // namespace strata::engine::safetensors_test
