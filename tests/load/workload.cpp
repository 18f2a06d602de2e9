#include "tests/load/workload.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace strata::load {
namespace {

// Uses of the generators of one seed.
constexpr uint64_t kTalks = 1;
constexpr uint64_t kPrefixes = 2;
constexpr uint64_t kBlocks = 3;

double DrawShare(Random* random) { return std::uniform_real_distribution<double>()(*random); }

using google::protobuf::FieldDescriptor;

// Sets a scalar field from its text, or adds an element if the field is repeated.
bool PutScalar(const std::string& text, const FieldDescriptor* field,
               google::protobuf::Message* message) {
  const auto* reflection = message->GetReflection();
  const auto put = [&](auto set, auto add, auto value) {
    if (field->is_repeated()) {
      (reflection->*add)(message, field, value);
    } else {
      (reflection->*set)(message, field, value);
    }
  };
  using Reflection = google::protobuf::Reflection;
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    put(&Reflection::SetString, &Reflection::AddString, text);
    return true;
  }
  double number = 0;
  if (!absl::SimpleAtod(text, &number)) return false;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      put(&Reflection::SetInt32, &Reflection::AddInt32, static_cast<int32_t>(number));
      return std::abs(number) < 1e9 && number == std::floor(number);
    case FieldDescriptor::CPPTYPE_FLOAT:
      put(&Reflection::SetFloat, &Reflection::AddFloat, static_cast<float>(number));
      return true;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      put(&Reflection::SetDouble, &Reflection::AddDouble, number);
      return true;
    case FieldDescriptor::CPPTYPE_BOOL:
      put(&Reflection::SetBool, &Reflection::AddBool, number != 0);
      return number == 0 || number == 1;
    default:
      return false;
  }
}

// Sets a field of the request, not its prompt. Pairs of numbers, as of logit_bias, are "42:-5".
bool PutField(const std::string& name, const std::string& value, v1::GenerateRequest* request) {
  const FieldDescriptor* field = v1::GenerateRequest::descriptor()->FindFieldByName(name);
  if (field == nullptr || field->real_containing_oneof() != nullptr) return false;
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    return PutScalar(value, field, request);
  }
  const std::vector<std::string> parts = absl::StrSplit(value, ':');
  google::protobuf::Message* pair = request->GetReflection()->AddMessage(request, field);
  return parts.size() == 2 && PutScalar(parts[0], pair->GetDescriptor()->field(0), pair) &&
         PutScalar(parts[1], pair->GetDescriptor()->field(1), pair);
}

}  // namespace

absl::StatusOr<Variant> ParseVariant(const std::string& text) {
  const auto wrong = [&text](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "': ", why));
  };
  Variant variant;
  const size_t colon = text.find(':');
  if (colon == text.npos || !absl::SimpleAtod(text.substr(0, colon), &variant.weight) ||
      !(variant.weight > 0 && variant.weight <= 1e6)) {
    return wrong("a weight above 0 and a colon stand first, as in 0.2:priority=-1");
  }
  const std::vector<std::string> fields = absl::StrSplit(text.substr(colon + 1), ',');
  for (const std::string& field : fields) {
    const size_t sign = field.find('=');
    if (sign == field.npos ||
        !PutField(field.substr(0, sign), field.substr(sign + 1), &variant.fields)) {
      return wrong(
          absl::StrCat("'", field, "' is not a field of GenerateRequest and a value of it"));
    }
  }
  if (variant.fields.has_n()) return wrong("n: each request is one sequence");
  return variant;
}

Workload::Workload(WorkloadOptions options) : options_(std::move(options)) {
  for (int32_t group = 0; group < options_.prefix_groups; ++group) {
    const Random random(options_.seed ^ kPrefixes << 56, static_cast<uint64_t>(group));
    AppendDrawn(random, options_.prefix_tokens, &prefixes_.emplace_back());
  }
  for (const Variant& variant : options_.mix) total_weight_ += variant.weight;
}

Talk Workload::Begin(int64_t number) const {
  Talk talk{.number = number,
            .random = Random(options_.seed ^ kTalks << 56, static_cast<uint64_t>(number))};
  if (options_.sessions) talk.session = absl::StrCat(options_.seed, "-talk-", number);
  if (!prefixes_.empty()) {
    const size_t group = talk.random() % prefixes_.size();
    talk.ids = prefixes_[group];
    if (options_.sessions) talk.session = absl::StrCat(options_.seed, "-group-", group);
  }
  return talk;
}

Job Workload::Next(Talk* talk) {
  const auto limit = static_cast<int32_t>(std::min<int64_t>(options_.max_positions, 1 << 30));
  const auto said = static_cast<int32_t>(talk->ids.size());
  const TraceRow* row = nullptr;
  int32_t input = 0, output = 0;
  if (options_.trace != nullptr) {
    const auto& rows = options_.trace->rows;
    row = &rows[static_cast<size_t>(talk->number) % rows.size()];
    const auto scaled = [&](int32_t tokens) {
      return static_cast<int32_t>(
          std::clamp<int64_t>(std::llround(tokens * options_.length_scale), 1, limit));
    };
    input = scaled(row->input_tokens);
    output = scaled(row->output_tokens);
  } else {
    input = options_.input.Draw(&talk->random, limit);
    output = options_.output.Draw(&talk->random, limit);
  }
  // The answer has priority: a prompt may be cut to one token.
  const int32_t max_output = std::max(1, limit - said - 1);
  const int32_t max_input = std::max(1, limit - said - std::min(output, max_output));
  if (output > max_output || (options_.prompts.empty() && input > max_input)) ++cut_;
  output = std::min(output, max_output);
  input = std::min(input, max_input);

  Job job;
  job.session = talk->session;
  if (!options_.mix.empty()) {
    double place = DrawShare(&talk->random) * total_weight_;
    size_t chosen = 0;
    while (chosen + 1 < options_.mix.size() && place >= options_.mix[chosen].weight) {
      place -= options_.mix[chosen++].weight;
    }
    job.request = options_.mix[chosen].fields;
  }
  if (options_.temperature && !job.request.has_temperature()) {
    job.request.set_temperature(*options_.temperature);
  }
  if (!job.request.has_ignore_eos()) job.request.set_ignore_eos(options_.ignore_eos);
  if (!job.request.has_max_tokens()) job.request.set_max_tokens(output);
  job.request.set_seed(talk->random());
  if (DrawShare(&talk->random) < options_.cancel_share) {
    job.cancel_after = static_cast<int32_t>(talk->random() % static_cast<uint64_t>(output));
  }
  AppendPrompt(row, input, talk);
  if (options_.prompts.empty()) {
    job.input_tokens = static_cast<int32_t>(talk->ids.size());
    *job.request.mutable_token_ids()->mutable_ids() = {talk->ids.begin(), talk->ids.end()};
  } else {
    job.request.set_text(talk->text);
  }
  ++talk->turn;
  return job;
}

void Workload::AppendPrompt(const TraceRow* row, int32_t tokens, Talk* talk) const {
  if (!options_.prompts.empty()) {
    const auto place = static_cast<size_t>(talk->number) * static_cast<size_t>(options_.turns) +
                       static_cast<size_t>(talk->turn);
    talk->text += options_.prompts[place % options_.prompts.size()];
    return;
  }
  const size_t end = talk->ids.size() + static_cast<size_t>(tokens);
  if (row != nullptr) {
    for (const int64_t block : row->blocks) {
      AppendDrawn(Random(options_.seed ^ kBlocks << 56, static_cast<uint64_t>(block)),
                  kTraceBlockTokens, &talk->ids);
    }
  }
  if (talk->ids.size() < end) {
    AppendDrawn(Random(talk->random()), static_cast<int32_t>(end - talk->ids.size()), &talk->ids);
  }
  talk->ids.resize(end);
}

void Workload::AppendDrawn(Random random, int32_t tokens, std::vector<int32_t>* ids) const {
  const auto vocab = static_cast<uint64_t>(std::max(1, options_.vocab_size));
  for (int32_t i = 0; i < tokens; ++i) ids->push_back(static_cast<int32_t>(random() % vocab));
}

bool Workload::Answer(const std::vector<int32_t>& ids, const std::string& text, Talk* talk) const {
  talk->ids.insert(talk->ids.end(), ids.begin(), ids.end());
  talk->text += text;
  // A further turn needs room for at least a token on each side.
  return talk->turn < options_.turns &&
         static_cast<int64_t>(talk->ids.size()) + 2 <= options_.max_positions;
}

}  // namespace strata::load
