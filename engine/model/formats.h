#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvcache/plan/plane_map.h"

namespace strata::engine {

// Parses --weights: auto (gives `automatic`), f32, bf16, f16, int8 or fp8. INVALID_ARGUMENT naming
// option, value and choices.
absl::StatusOr<kernels::MatrixFormat> ParseMatrixFormat(std::string_view text,
                                                        kernels::MatrixFormat automatic);

// Parses --cache-dtype: one of these for keys and values alike, or one for each as in
// "k=int8,v=bf16". Auto and errors as above.
absl::StatusOr<kvcache::CacheFormats> ParseCacheFormats(std::string_view text,
                                                        kernels::PlaneFormat automatic);

// The text that ParseCacheFormats reads: "bf16", "k=int8,v=bf16".
std::string CacheFormatsName(kvcache::CacheFormats formats);

}  // namespace strata::engine
