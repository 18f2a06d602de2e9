#include "engine/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "engine/base/json_file.h"
#include "engine/model/safetensors_header.h"
#include "kernels/status_macros.h"
#include "kvcache/base/errors.h"
#include "kvcache/base/json_reader.h"
#include "nlohmann/json.hpp"

namespace strata::engine {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

std::optional<kernels::ElementType> LoadableDType(std::string_view name) {
  if (name == "F32") return kernels::ElementType::kF32;
  if (name == "BF16") return kernels::ElementType::kBF16;
  if (name == "F16") return kernels::ElementType::kF16;
  return std::nullopt;
}

// A shard is in the folder of its index, so a name must not lead elsewhere.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](char c) {
           return c == '/' || c == '\\' || absl::ascii_iscntrl(static_cast<unsigned char>(c));
         });
}

// The index: {"weight_map": {tensor name: file name}}.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(
    const std::filesystem::path& index) {
  ASSIGN_OR_RETURN(nlohmann::json json, ReadJsonFile(index, kMaxHeaderBytes));
  const std::string where = index.string();
  const auto listed = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || listed == json.end() || !listed->is_object() || listed->empty()) {
    return InvalidArgument(where, ": no weight_map with tensors in it");
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, file] : listed->items()) {
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      return InvalidArgument(where, ": tensor ", Printable(tensor), " is in ", DescribeJson(file),
                             ", which is not the name of a file");
    }
    weight_map.emplace(tensor, file.get<std::string>());
  }
  return weight_map;
}

}  // namespace

class Checkpoint::Mapping {
 public:
  static absl::StatusOr<std::unique_ptr<Mapping>> Map(const std::filesystem::path& path) {
    const auto fail = [&path](std::string_view what) {
      return InvalidArgument(path.string(), ": ", what);
    };
    // Opening a pipe for reading would wait for a writer; O_NONBLOCK does not.
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return fail(std::generic_category().message(errno));
    const auto close_file = absl::MakeCleanup([file] { close(file); });
    struct stat info = {};
    if (fstat(file, &info) != 0) return fail(std::generic_category().message(errno));
    if (!S_ISREG(info.st_mode)) return fail("not a file");
    if (info.st_size == 0) return fail("the file is empty");
    const auto size = static_cast<size_t>(info.st_size);
    void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) return fail(std::generic_category().message(errno));
    // All of the file is read once, soon. Only a hint.
    madvise(data, size, MADV_WILLNEED);
    return std::unique_ptr<Mapping>(new Mapping(data, size));
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(data_, size_); }

  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

  // Releases the whole pages of [begin, end), which is inside the file, from this process's memory.
  static void Release(const std::byte* begin, const std::byte* end) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
    const uintptr_t last = reinterpret_cast<uintptr_t>(end) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

 private:
  Mapping(void* data, size_t size) : data_(data), size_(size) {}

  void* data_;
  size_t size_;
};

struct Checkpoint::Entry {
  std::string_view dtype;  // static storage
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::string file;
};

Checkpoint::Checkpoint() = default;
Checkpoint::~Checkpoint() = default;

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::filesystem::path& dir) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  std::error_code ignored;
  const auto single = dir / kSingleFile;
  const auto index = dir / kIndexFile;
  absl::Status status;
  if (std::filesystem::exists(single, ignored)) {
    status = checkpoint->Map(single);
  } else if (std::filesystem::exists(index, ignored)) {
    status = checkpoint->OpenShards(dir, index);
  } else {
    status = NotFound(dir.string(), ": neither ", kSingleFile, " nor ", kIndexFile, " is there");
  }
  if (!status.ok()) return status;
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::FromBytes(std::string_view file) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  RETURN_IF_ERROR(checkpoint->Add("safetensors", file));
  return checkpoint;
}

absl::Status Checkpoint::Map(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<Mapping> mapping, Mapping::Map(path));
  mappings_.push_back(std::move(mapping));
  return Add(path.string(), mappings_.back()->bytes());
}

absl::Status Checkpoint::OpenShards(const std::filesystem::path& dir,
                                    const std::filesystem::path& index) {
  ASSIGN_OR_RETURN(const auto weight_map, ReadWeightMap(index));
  std::set<std::string> files;
  for (const auto& [tensor, file] : weight_map) files.insert(file);
  for (const std::string& file : files) {
    RETURN_IF_ERROR(Map(dir / file));
  }
  for (const auto& [tensor, file] : weight_map) {
    const auto found = tensors_.find(tensor);
    const std::string shard = (dir / file).string();
    if (found == tensors_.end() || found->second.file != shard) {
      return InvalidArgument(shard, ": tensor ", Printable(tensor), ", which ", kIndexFile,
                             " says is here, is missing");
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Add(std::string_view file_name, std::string_view file) {
  ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(file_name, file));
  const std::byte* data = reinterpret_cast<const std::byte*>(file.data()) + header.data_start;
  for (HeaderEntry& entry : header.entries) {
    const auto [place, added] =
        tensors_.try_emplace(std::move(entry.name), Entry{.dtype = entry.dtype,
                                                          .shape = std::move(entry.shape),
                                                          .data = data + entry.begin,
                                                          .bytes = entry.end - entry.begin,
                                                          .file = std::string(file_name)});
    if (!added) {
      return InvalidArgument(file_name, ": tensor ", Printable(place->first), " is also in ",
                             place->second.file);
    }
  }
  return absl::OkStatus();
}

bool Checkpoint::Has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

absl::StatusOr<TensorView> Checkpoint::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return NotFound("tensor ", Printable(name), " is missing");
  }
  const Entry& entry = found->second;
  const std::optional<kernels::ElementType> dtype = LoadableDType(entry.dtype);
  if (!dtype) {
    return InvalidArgument(entry.file, ": tensor ", Printable(name), " is ", entry.dtype,
                           ", want F32, BF16 or F16");
  }
  return TensorView{
      .dtype = *dtype, .shape = entry.shape, .data = entry.data, .bytes = entry.bytes};
}

void Checkpoint::Release(const TensorView& tensor) const {
  // Bytes in memory, not mapped from a file, would be lost.
  if (!mappings_.empty()) Mapping::Release(tensor.data, tensor.data + tensor.bytes);
}

std::vector<std::string> Checkpoint::Names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

}  // namespace strata::engine
