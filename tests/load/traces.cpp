#include "tests/load/traces.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/load/random.h"

namespace strata::load {
namespace {

constexpr size_t kMaxComplaints = 10;
constexpr double kMaxSeconds = 1e9;  // 31 years

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

bool IsCount(double value) {
  return value == std::floor(value) && value >= 0 && value <= std::numeric_limits<int32_t>::max();
}

absl::StatusOr<TraceRow> MakeRow(double seconds, double input, double output) {
  if (!(std::abs(seconds) <= kMaxSeconds)) return Wrong("the time is out of range");
  if (!IsCount(input) || !IsCount(output)) return Wrong("token counts are no whole numbers");
  if (input < 1) return Wrong("no input tokens");
  if (output < 1) return Wrong("no output tokens");
  return TraceRow{.at = FromSeconds(seconds),
                  .input_tokens = static_cast<int32_t>(input),
                  .output_tokens = static_cast<int32_t>(output)};
}

// "2023-11-16 18:17:03.9799600", in any number of digits, as time since 1970.
bool ParseDate(const std::string& text, Time* time) {
  int year = 0;
  unsigned month = 0, day = 0, hour = 0, minute = 0;
  int read = 0;
  if (std::sscanf(text.c_str(), "%4d-%2u-%2u%*1[ T]%2u:%2u:%n", &year, &month, &day, &hour, &minute,
                  &read) != 5 ||
      read == 0) {
    return false;
  }
  double second = 0;
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month),
                                         std::chrono::day(day)};
  if (!date.ok() || hour > 23 || minute > 59 ||
      !absl::SimpleAtod(text.substr(size_t(read)), &second) || !(second >= 0 && second < 61)) {
    return false;
  }
  *time = std::chrono::sys_days(date).time_since_epoch() + std::chrono::hours(hour) +
          std::chrono::minutes(minute) + std::chrono::nanoseconds(std::llround(second * 1e9));
  return true;
}

absl::StatusOr<TraceRow> ParseCommas(const std::string& line) {
  const std::vector<std::string> fields = absl::StrSplit(line, ',');
  if (fields.size() < 3) return Wrong("three fields are needed: time, input and output tokens");
  double seconds = 0, input = 0, output = 0;
  Time date{};
  const bool is_number = absl::SimpleAtod(fields[0], &seconds);
  if (!is_number && !ParseDate(fields[0], &date)) {
    return Wrong(absl::StrCat("'", fields[0], "' is no time"));
  }
  if (!absl::SimpleAtod(fields[1], &input) || !absl::SimpleAtod(fields[2], &output)) {
    return Wrong("token counts are no whole numbers");
  }
  auto row = MakeRow(seconds, input, output);
  if (row.ok() && !is_number) row->at = date;
  return row;
}

absl::StatusOr<TraceRow> ParseMooncake(const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Wrong("not a JSON object");
  const auto number = [&json](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_number() ? found->get<double>() : std::nan("");
  };
  auto row = MakeRow(number("timestamp") / 1e3, number("input_length"), number("output_length"));
  const auto ids = json.find("hash_ids");
  if (!row.ok() || ids == json.end()) return row;
  if (!ids->is_array()) return Wrong("hash_ids is not a list");
  for (const auto& id : *ids) {
    if (!id.is_number_integer()) return Wrong("hash_ids holds what is no whole number");
    row->blocks.push_back(id.get<int64_t>());
  }
  const auto needed = (row->input_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
  if (std::ssize(row->blocks) < needed) {
    return Wrong(absl::StrCat("hash_ids names ", row->blocks.size(), " blocks of 512 tokens, ",
                              needed, " are needed"));
  }
  return row;
}

// A line of names may only be the first line.
bool IsHeader(const std::string& line) {
  return absl::ascii_isalpha(static_cast<unsigned char>(line[0])) && line.find(',') != line.npos;
}

}  // namespace

absl::StatusOr<Trace> ParseTrace(const std::string& content, const std::string& name) {
  Trace trace;
  int64_t number = 0;
  bool is_json = false;
  std::istringstream lines(content);
  for (std::string line; std::getline(lines, line);) {
    ++number;
    absl::StripAsciiWhitespace(&line);
    if (line.empty()) continue;
    if (number == 1) {
      is_json = line[0] == '{';
      if (!is_json && IsHeader(line)) continue;
    }
    auto row = is_json ? ParseMooncake(line) : ParseCommas(line);
    if (row.ok()) {
      trace.rows.push_back(*std::move(row));
      continue;
    }
    ++trace.skipped;
    if (trace.complaints.size() < kMaxComplaints) {
      trace.complaints.push_back(
          absl::StrCat(name, ": line ", number, ": ", std::string(row.status().message())));
    }
  }
  if (trace.rows.empty()) {
    return Wrong(trace.complaints.empty()
                     ? absl::StrCat(name, ": no line is a request")
                     : absl::StrCat("no line is a request: ", trace.complaints.front()));
  }
  const auto by_time = [](const TraceRow& a, const TraceRow& b) { return a.at < b.at; };
  std::stable_sort(trace.rows.begin(), trace.rows.end(), by_time);
  const Time first = trace.rows.front().at;
  for (TraceRow& row : trace.rows) row.at -= first;
  return trace;
}

absl::StatusOr<Trace> ReadTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  }
  return ParseTrace(content.str(), path);
}

void ShuffleTrace(uint64_t seed, Trace* trace) {
  Random random(seed);
  std::vector<TraceRow>& rows = trace->rows;
  for (size_t left = rows.size(); left > 1; --left) {
    TraceRow& row = rows[left - 1];
    TraceRow& other = rows[random() % left];
    std::swap(row, other);
    std::swap(row.at, other.at);
  }
}

}  // namespace strata::load
