#include "engine/model/formats.h"

#include <optional>

#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

template <kernels::NumberFormat Format>
std::optional<Format> FormatNamed(std::string_view name, Format automatic) {
  if (name == "auto") return automatic;
  for (const Format format :
       {Format::kF32, Format::kBF16, Format::kF16, Format::kI8, Format::kF8}) {
    if (name == kernels::FormatName(format)) return format;
  }
  return std::nullopt;
}

// The text after `key`; "" if `text` does not begin with it.
std::string_view ValueOf(std::string_view key, std::string_view text) {
  return text.starts_with(key) ? text.substr(key.size()) : "";
}

}  // namespace

absl::StatusOr<kernels::MatrixFormat> ParseMatrixFormat(std::string_view text,
                                                        kernels::MatrixFormat automatic) {
  if (const auto format = FormatNamed(text, automatic)) return *format;
  return InvalidArgument("weights: \"", text, "\" is not one of auto, f32, bf16, f16, int8, fp8");
}

absl::StatusOr<kvcache::CacheFormats> ParseCacheFormats(std::string_view text,
                                                        kernels::PlaneFormat automatic) {
  std::string_view keys = text;
  std::string_view values = text;
  const size_t comma = text.find(',');
  if (comma != std::string_view::npos) {
    keys = ValueOf("k=", text.substr(0, comma));
    values = ValueOf("v=", text.substr(comma + 1));
  }
  const auto key_format = FormatNamed(keys, automatic);
  const auto value_format = FormatNamed(values, automatic);
  if (key_format && value_format) return kvcache::CacheFormats{*key_format, *value_format};
  return InvalidArgument("cache-dtype: \"", text,
                         "\" is not one of auto, f32, bf16, f16, int8, fp8, nor two as in "
                         "k=int8,v=bf16");
}

std::string CacheFormatsName(kvcache::CacheFormats formats) {
  const std::string_view keys = kernels::FormatName(formats.keys);
  if (formats.keys == formats.values) return std::string(keys);
  return Concat("k=", keys, ",v=", kernels::FormatName(formats.values));
}

}  // namespace strata::engine
