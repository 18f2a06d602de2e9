#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "strata/v1/inference.pb.h"
#include "tests/load/lengths.h"
#include "tests/load/random.h"
#include "tests/load/traces.h"

namespace strata::load {

// A kind of request in a mix.
struct Variant {
  double weight = 1;
  v1::GenerateRequest fields;  // fields that it sets over the common ones
};
// "0.2:priority=-1,stop=END,logit_bias=42:-5": a weight, and fields of GenerateRequest other than
// its prompt. A repeated field gets an element each time it is named. INVALID_ARGUMENT naming the
// text.
absl::StatusOr<Variant> ParseVariant(const std::string& text);

struct WorkloadOptions {
  Lengths input;                          // of a turn
  Lengths output;                         // of a turn, at most
  std::vector<std::string> prompts = {};  // used in turn; empty: token ids are drawn
  const Trace* trace = nullptr;           // if given, talk n has the lengths of its row n
  double length_scale = 1;                // of a trace's token counts
  int32_t prefix_groups = 0;              // talks of one group begin alike; 0: no groups
  int32_t prefix_tokens = 0;
  int32_t turns = 1;
  bool sessions = false;  // requests name their session: the group, or the talk
  double cancel_share = 0;
  std::vector<Variant> mix = {};
  std::optional<float> temperature = {};
  bool ignore_eos = true;
  uint64_t seed = 0;
  // The server's model.
  int32_t vocab_size = 0;
  int64_t max_positions = 0;  // prompt and answer together
};

// One turn of a talk, to be sent.
struct Job {
  v1::GenerateRequest request;
  std::string session = {};             // of WorkloadOptions::sessions; empty: none
  int32_t input_tokens = 0;             // 0 if only the server knows
  std::optional<int32_t> cancel_after;  // tokens
};

// A conversation: each turn's prompt begins with everything said before.
struct Talk {
  int64_t number = 0;
  int32_t turn = 0;
  Random random{0};
  std::string session = {};
  std::vector<int32_t> ids = {};  // everything said so far
  std::string text = {};          // likewise, if prompts are texts
};

// Makes requests: the same for the same seed and number, in any order of calls.
class Workload {
 public:
  explicit Workload(WorkloadOptions options);

  Talk Begin(int64_t number) const;
  Job Next(Talk* talk);
  // Takes the answer to the talk's last job; false if the talk has no turn left, or no room for
  // one.
  bool Answer(const std::vector<int32_t>& ids, const std::string& text, Talk* talk) const;

  bool keeps_answers() const { return options_.turns > 1; }
  // Requests whose lengths were cut to the model's positions or the server's cache.
  int64_t cut() const { return cut_; }

 private:
  void AppendPrompt(const TraceRow* row, int32_t tokens, Talk* talk) const;
  void AppendDrawn(Random random, int32_t tokens, std::vector<int32_t>* ids) const;

  const WorkloadOptions options_;
  std::vector<std::vector<int32_t>> prefixes_;  // of each group
  double total_weight_ = 0;
  int64_t cut_ = 0;
};

}  // namespace strata::load
