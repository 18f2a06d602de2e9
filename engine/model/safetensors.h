#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/tensor_source.h"

namespace strata::engine {

// A checkpoint in the safetensors format: DIR/model.safetensors, or else the shards named in
// DIR/model.safetensors.index.json.
//
//   file:    u64 header length, header (a JSON object), data
//   header:  {"NAME": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end)}, ..,
//             "__metadata__": {string: string} or null}
//
// Files are memory-mapped. Every offset is checked against the file before use: the tensors of a
// file lie end to end in its data and fill it. Immutable after Open, any thread may read; views
// live as long as the checkpoint. A file that is truncated while it is mapped ends the process
// (SIGBUS): replace checkpoints by renaming.
class Checkpoint final : public TensorSource {
 public:
  // NOT_FOUND if DIR holds no checkpoint; INVALID_ARGUMENT with one line naming file, tensor and
  // limit for a truncated or lying header, overlapping or out-of-range data, a missing shard, a
  // tensor in two shards.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& dir);
  // The same checks on bytes in memory (tests, fuzzing). `file` outlives the checkpoint.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> FromBytes(std::string_view file);
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;
  ~Checkpoint() override;

  bool Has(std::string_view name) const override;
  absl::StatusOr<TensorView> Find(std::string_view name) const override;
  std::vector<std::string> Names() const override;
  void Release(const TensorView& tensor) const override;

 private:
  class Mapping;  // a file in memory
  struct Entry;   // dtype, shape, bytes, file
  Checkpoint();
  absl::Status Add(std::string_view file_name, std::string_view file);
  absl::Status Map(const std::filesystem::path& path);
  absl::Status OpenShards(const std::filesystem::path& dir, const std::filesystem::path& index);

  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace strata::engine
