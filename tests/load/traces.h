#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/load/clock.h"

namespace strata::load {

// A request of a recorded traffic.
struct TraceRow {
  Time at{};  // from the trace's first
  int32_t input_tokens = 0;
  int32_t output_tokens = 0;
  // Of Mooncake's: which prompt tokens are alike, a number for each block of kTraceBlockTokens.
  std::vector<int64_t> blocks = {};
};
constexpr int32_t kTraceBlockTokens = 512;

struct Trace {
  std::vector<TraceRow> rows;  // by time
  int64_t skipped = 0;         // lines that were no request
  // Of the first of them, "FILE: line 7: what is wrong".
  std::vector<std::string> complaints;
};

// Reads, by what its first line looks like: Azure's "TIMESTAMP,ContextTokens,GeneratedTokens" with
// dates, Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids), or plain
// "seconds,input,output" with or without a line of names. Lines that are wrong, or that ask for no
// tokens, are skipped and counted. NOT_FOUND where the file cannot be read, INVALID_ARGUMENT where
// no line is a request.
absl::StatusOr<Trace> ReadTrace(const std::string& path);

// The same of a file's content; `name` is for complaints.
absl::StatusOr<Trace> ParseTrace(const std::string& content, const std::string& name);

// Puts the requests in an order drawn by `seed`; the moments stay.
void ShuffleTrace(uint64_t seed, Trace* trace);

}  // namespace strata::load
