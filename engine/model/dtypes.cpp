#include "engine/model/dtypes.h"

#include <optional>

#include "engine/base/errors.h"

namespace strata::engine {
namespace {

using kernels::DType;

std::optional<DType> DTypeNamed(std::string_view name, DType automatic) {
  if (name == "auto") return automatic;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8, DType::kF8}) {
    if (name == kernels::DTypeName(dtype)) return dtype;
  }
  return std::nullopt;
}

// The text after `key`; "" if `text` does not begin with it.
std::string_view ValueOf(std::string_view key, std::string_view text) {
  return text.starts_with(key) ? text.substr(key.size()) : "";
}

}  // namespace

absl::StatusOr<DType> ParseWeightDType(std::string_view text, DType automatic) {
  if (const std::optional<DType> dtype = DTypeNamed(text, automatic)) return *dtype;
  return InvalidArgument("weights: \"", text, "\" is not one of auto, f32, bf16, f16, int8, fp8");
}

absl::StatusOr<kvcache::CacheDTypes> ParseCacheDTypes(std::string_view text, DType automatic) {
  std::string_view keys = text;
  std::string_view values = text;
  const size_t comma = text.find(',');
  if (comma != std::string_view::npos) {
    keys = ValueOf("k=", text.substr(0, comma));
    values = ValueOf("v=", text.substr(comma + 1));
  }
  const std::optional<DType> key_dtype = DTypeNamed(keys, automatic);
  const std::optional<DType> value_dtype = DTypeNamed(values, automatic);
  if (key_dtype && value_dtype) return kvcache::CacheDTypes{*key_dtype, *value_dtype};
  return InvalidArgument("cache-dtype: \"", text,
                         "\" is not one of auto, f32, bf16, f16, int8, fp8, nor two as in "
                         "k=int8,v=bf16");
}

std::string CacheDTypesName(kvcache::CacheDTypes dtypes) {
  const std::string_view keys = kernels::DTypeName(dtypes.keys);
  if (dtypes.keys == dtypes.values) return std::string(keys);
  return Concat("k=", keys, ",v=", kernels::DTypeName(dtypes.values));
}

}  // namespace strata::engine
