#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/load/clock.h"

namespace strata::load {

// A request of recorded traffic.
struct TraceRow {
  Time at{};  // from the trace's first request
  int32_t input_tokens = 0;
  int32_t output_tokens = 0;
  // Mooncake only: equal numbers mean equal prompt tokens, one for each block of kTraceBlockTokens.
  std::vector<int64_t> blocks = {};
};
constexpr int32_t kTraceBlockTokens = 512;

struct Trace {
  std::vector<TraceRow> rows;  // by time
  int64_t skipped = 0;         // lines that are no request
  // About the first skipped lines, "FILE: line 7: the error".
  std::vector<std::string> complaints;
};

// Reads a format by its first line: Azure's "TIMESTAMP,ContextTokens,GeneratedTokens" with
// dates, Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids), or plain
// "seconds,input,output" with or without a line of names. Lines that are wrong, or that ask for no
// tokens, are skipped and counted. NOT_FOUND if the file cannot be read, INVALID_ARGUMENT if no
// line is a request.
absl::StatusOr<Trace> ReadTrace(const std::string& path);

// Parses a file's content likewise; `name` is for complaints.
absl::StatusOr<Trace> ParseTrace(const std::string& content, const std::string& name);

// Puts the requests in an order drawn by `seed`; the times stay.
void ShuffleTrace(uint64_t seed, Trace* trace);

}  // namespace strata::load
