#include "engine/model/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "engine/base/file_marks.h"
#include "engine/base/json_file.h"
#include "kernels/status_macros.h"
#include "kvcache/base/errors.h"
#include "kvcache/base/json_reader.h"
#include "nlohmann/json.hpp"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "checkpoints are read in place");

struct ElementType {
  std::string_view name;
  size_t bytes;
};

constexpr std::array kElementTypes = {
    ElementType{"F64", 8},         ElementType{"F32", 4},     ElementType{"F16", 2},
    ElementType{"BF16", 2},        ElementType{"C64", 8},     ElementType{"I64", 8},
    ElementType{"U64", 8},         ElementType{"I32", 4},     ElementType{"U32", 4},
    ElementType{"I16", 2},         ElementType{"U16", 2},     ElementType{"I8", 1},
    ElementType{"U8", 1},          ElementType{"BOOL", 1},    ElementType{"F8_E4M3", 1},
    ElementType{"F8_E5M2", 1},     ElementType{"F8_E8M0", 1}, ElementType{"F8_E4M3FNUZ", 1},
    ElementType{"F8_E5M2FNUZ", 1},
};

// A whole number, 0 or more, that fits int64.
std::optional<int64_t> Count(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::StatusOr<std::vector<int64_t>> Counts(const std::string& where, const Json& list) {
  std::vector<int64_t> counts;
  if (!list.is_array()) {
    return InvalidArgument(where, " is ", DescribeJson(list), ", not a list");
  }
  for (const Json& item : list) {
    const std::optional<int64_t> count = Count(item);
    if (!count) {
      return InvalidArgument(where, " holds ", DescribeJson(item), ", want whole numbers from 0");
    }
    counts.push_back(*count);
  }
  return counts;
}

// Bytes of a tensor; nullopt if they do not fit int64.
std::optional<int64_t> TensorBytes(const std::vector<int64_t>& shape, size_t element_bytes) {
  auto bytes = static_cast<int64_t>(element_bytes);
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return bytes;
}

const Json* Field(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

// `where` names file and tensor.
absl::StatusOr<HeaderEntry> ParseEntry(const std::string& where, const Json& value) {
  if (!value.is_object()) {
    return InvalidArgument(where, " is not an object");
  }
  const Json* dtype = Field(value, "dtype");
  const Json* shape = Field(value, "shape");
  const Json* offsets = Field(value, "data_offsets");
  if (dtype == nullptr || shape == nullptr || offsets == nullptr) {
    return InvalidArgument(where, " lacks one of dtype, shape, data_offsets");
  }
  const auto* name = dtype->get_ptr<const Json::string_t*>();
  const auto* type = std::find_if(
      kElementTypes.begin(), kElementTypes.end(),
      [&](const ElementType& known) { return name != nullptr && *name == known.name; });
  if (type == kElementTypes.end()) {
    return InvalidArgument(where, ": unknown dtype ", DescribeJson(*dtype));
  }
  ASSIGN_OR_RETURN(std::vector<int64_t> sizes, Counts(where + ": shape", *shape));
  ASSIGN_OR_RETURN(std::vector<int64_t> range, Counts(where + ": data_offsets", *offsets));
  if (range.size() != 2 || range.at(0) > range.at(1)) {
    return InvalidArgument(where, ": data_offsets ", DescribeJson(*offsets), ", want [begin, end]");
  }
  const std::optional<int64_t> bytes = TensorBytes(sizes, type->bytes);
  if (!bytes || *bytes != range.at(1) - range.at(0)) {
    return InvalidArgument(where, ": shape ", DescribeJson(*shape), " of ", type->name, " takes ",
                           bytes ? std::to_string(*bytes) : std::string("more than 2^63"),
                           " bytes, data_offsets ", DescribeJson(*offsets), " hold ",
                           range.at(1) - range.at(0));
  }
  return HeaderEntry{.name = {},
                     .dtype = type->name,
                     .shape = std::move(sizes),
                     .begin = static_cast<size_t>(range.at(0)),
                     .end = static_cast<size_t>(range.at(1))};
}

absl::Status CheckMetadata(std::string_view name, const Json& metadata) {
  if (metadata.is_null()) return absl::OkStatus();  // the format's own library allows null
  const bool strings =
      metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                          [](const Json& value) { return value.is_string(); });
  if (strings) return absl::OkStatus();
  return InvalidArgument(name, ": __metadata__ is not a map of strings");
}

// The entries, sorted, must lie end to end and fill the data.
absl::Status CheckCoverage(std::string_view name, const std::vector<HeaderEntry>& entries,
                           size_t data_bytes) {
  size_t covered = 0;
  for (const HeaderEntry& entry : entries) {
    if (entry.end > data_bytes) {
      return InvalidArgument(name, ": tensor ", Printable(entry.name), " ends at byte ", entry.end,
                             " of the data, which has ", data_bytes, " (truncated file?)");
    }
    if (entry.begin != covered) {
      return InvalidArgument(
          name, ": tensor ", Printable(entry.name), " begins at byte ", entry.begin,
          " of the data, ",
          entry.begin < covered ? "inside the one that ends at " : "leaving a hole after ",
          covered);
    }
    covered = entry.end;
  }
  if (covered == data_bytes) return absl::OkStatus();
  return InvalidArgument(name, ": tensors end at byte ", covered, " of the data, which has ",
                         data_bytes);
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view name,
                                                         std::string_view file) {
  uint64_t length = 0;
  // The first eight letters of a pointer would be read as a length.
  RETURN_IF_ERROR(RefuseLfsPointer(name, file));
  if (file.size() < sizeof(length)) {
    return InvalidArgument(name, ": ", file.size(), " bytes, too short for a header length of 8");
  }
  std::memcpy(&length, file.data(), sizeof(length));
  file.remove_prefix(sizeof(length));
  if (length > kMaxHeaderBytes) {
    return InvalidArgument(name, ": header of ", length, " bytes, the limit is ", kMaxHeaderBytes);
  }
  if (length > file.size()) {
    return InvalidArgument(name, ": header of ", length, " bytes, the file has ", file.size(),
                           " left (truncated file?)");
  }
  ASSIGN_OR_RETURN(Json json, ParseJson(Concat(name, ": header"), file.substr(0, length)));
  if (!json.is_object()) {
    return InvalidArgument(name, ": header is not a JSON object");
  }

  SafetensorsHeader header{.entries = {}, .data_start = sizeof(length) + length};
  for (const auto& [key, value] : json.items()) {
    if (key == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(name, value));
      continue;
    }
    ASSIGN_OR_RETURN(HeaderEntry entry,
                     ParseEntry(Concat(name, ": tensor ", Printable(key)), value));
    entry.name = key;
    header.entries.push_back(std::move(entry));
  }
  std::sort(header.entries.begin(), header.entries.end(),
            [](const HeaderEntry& a, const HeaderEntry& b) {
              return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
            });
  RETURN_IF_ERROR(CheckCoverage(name, header.entries, file.size() - length));
  return header;
}

}  // namespace strata::engine
