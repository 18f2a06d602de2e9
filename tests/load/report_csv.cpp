#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "tests/load/report.h"

namespace strata::load {
namespace {

// A number and its comma, or nothing and the comma.
void AppendField(std::optional<double> value, int digits, std::string* csv) {
  if (value) absl::StrAppendFormat(csv, "%.*f", digits, *value);
  *csv += ',';
}

void AppendRecord(const Record& record, std::string* csv) {
  std::optional<double> first, ttft, tpot, end, e2el;
  if (!record.arrivals.empty()) {
    first = Seconds(record.arrivals.front().at());
    ttft = FirstTokenMs(record);
    tpot = PerTokenMs(record);
  }
  if (record.end > Time(0)) {
    end = Seconds(record.end);
    e2el = EndMs(record);
  }
  absl::StrAppendFormat(csv, "%d,%d,%s,%.9f,%.9f,", record.talk, record.turn,
                        OutcomeName(record.outcome), Seconds(record.intended),
                        Seconds(record.sent));
  AppendField(first, 9, csv);
  AppendField(end, 9, csv);
  absl::StrAppendFormat(csv, "%d,%d,%d,", record.input_tokens, record.output_tokens,
                        record.arrivals.size());
  AppendField(ttft, 6, csv);
  AppendField(tpot, 6, csv);
  AppendField(e2el, 6, csv);
  if (record.server) {
    const ServerSplit& split = *record.server;
    absl::StrAppendFormat(csv, "%.6f,%.6f,%.6f,%d,%d,%d,%d,", split.queue_seconds,
                          split.prefill_seconds, split.decode_seconds, split.cached_tokens,
                          split.preemptions, split.cache_bytes, split.plain_cache_bytes);
  } else {
    *csv += ",,,,,,,";
  }
  // Quoted, as it may have commas.
  if (!record.error.empty()) {
    absl::StrAppend(csv, "\"", absl::StrReplaceAll(record.error, {{"\"", "\"\""}}), "\"");
  }
}

}  // namespace

std::string Csv(const std::vector<RunResult>& runs) {
  std::string csv =
      "run,talk,turn,outcome,intended_s,sent_s,first_token_s,end_s,input_tokens,output_tokens,"
      "messages,ttft_ms,tpot_ms,e2el_ms,queue_s,prefill_s,decode_s,cached_tokens,preemptions,"
      "cache_bytes,plain_cache_bytes,error\n";
  for (size_t run = 0; run < runs.size(); ++run) {
    for (const Record& record : runs[run].records) {
      absl::StrAppend(&csv, run, ",");
      AppendRecord(record, &csv);
      csv += '\n';
    }
  }
  return csv;
}

}  // namespace strata::load
