#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/serve/request_check.h"
#include "kvcache/base/errors.h"
#include "server/base/read_file.h"
#include "server/base/unicode.h"
#include "server/cli/client.h"
#include "server/cli/commands.h"
#include "server/cli/generate_report.h"
#include "server/cli/signal_watch.h"
#include "server/cli/standard_output.h"
#include "server/grpc/grpc_server.h"
#include "strata/v1/inference.grpc.pb.h"

namespace strata::server {
namespace {

absl::StatusOr<std::string> ReadPrompt(const std::string& file) {
  if (file != "-") return ReadFile("--prompt-file", file);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

// gRPC would refuse text that is not UTF-8 without a reason.
absl::Status CheckUtf8(const v1::GenerateRequest& request) {
  const auto check = [](const char* field, const std::string& text) {
    const auto offset = FindInvalidUtf8(text);
    if (!offset) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(field, ": not UTF-8 at byte ", *offset));
  };
  absl::Status status = check("prompt", request.text());
  for (const std::string& stop : request.stop()) status.Update(check("stop", stop));
  for (const std::string& word : request.bad_words()) status.Update(check("bad_words", word));
  status.Update(check("cache_salt", request.cache_salt()));
  return status;
}

void Collect(const v1::GenerateEvent& event, GenerateResult* result) {
  result->request_id = event.request_id();
  SequenceResult& sequence = result->sequences[static_cast<size_t>(event.index())];
  if (event.has_started()) {
    const auto& ids = event.started().prompt_token_ids();
    result->prompt_token_ids.assign(ids.begin(), ids.end());
    result->seed = event.started().seed();
  } else if (event.has_prompt_logprobs()) {
    const auto& tokens = event.prompt_logprobs().tokens();
    result->prompt_logprobs.assign(tokens.begin(), tokens.end());
  } else if (event.has_delta()) {
    const v1::Delta& delta = event.delta();
    sequence.text += delta.text();
    sequence.token_ids.insert(sequence.token_ids.end(), delta.token_ids().begin(),
                              delta.token_ids().end());
    sequence.logprobs.insert(sequence.logprobs.end(), delta.logprobs().begin(),
                             delta.logprobs().end());
  } else if (event.has_finished()) {
    const v1::Finished& finished = event.finished();
    sequence.reason = finished.reason();
    sequence.metrics = finished.metrics();
    if (finished.has_end_token_id()) sequence.end_token_id = finished.end_token_id();
    if (finished.has_end_logprobs()) sequence.end_logprobs = finished.end_logprobs();
    sequence.stop_string = finished.stop_string();
  }
}

// Reads the stream of `n` sequences to its end. With `show` the text of a single one goes to stdout
// as it comes. An error of stdout cancels the call, and is returned in place of the server's error
// for that cancel.
absl::StatusOr<GenerateResult> Stream(grpc::ClientContext* context,
                                      grpc::ClientReader<v1::GenerateEvent>* reader, int32_t n,
                                      bool show) {
  GenerateResult result;
  result.sequences.resize(static_cast<size_t>(std::clamp(n, 1, engine::kMaxSequences)));
  absl::Status written;
  absl::Status unexpected;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (event.index() < 0 || event.index() >= std::ssize(result.sequences)) {
      unexpected = absl::InternalError(absl::StrCat("a sequence ", event.index(), " of ", n));
      context->TryCancel();
      continue;
    }
    Collect(event, &result);
    if (!show || n != 1 || !event.has_delta() || !written.ok()) continue;
    written = WriteToStdout(event.delta().text());
    if (!written.ok()) context->TryCancel();
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  for (const absl::Status& wrong : {written, unexpected, status}) {
    if (!wrong.ok()) return wrong;
  }
  return result;
}

// Text after the streamed text; for several sequences, including their texts.
std::string Ending(const GenerateResult& result, bool metrics) {
  std::string text;
  const bool several = result.sequences.size() > 1;
  for (size_t i = 0; i < result.sequences.size(); ++i) {
    const SequenceResult& sequence = result.sequences[i];
    if (several) absl::StrAppend(&text, i == 0 ? "" : "\n", "[", i, "]\n", sequence.text);
    text += "\n";
    if (metrics) text.append("\n").append(MetricsText(sequence.metrics));
  }
  return text;
}

}  // namespace

absl::Status RunGenerate(const GenerateOptions& options) {
  v1::GenerateRequest request = options.request;
  if (options.prompt_file) {
    ASSIGN_OR_RETURN(*request.mutable_text(), ReadPrompt(*options.prompt_file));
  }
  RETURN_IF_ERROR(CheckUtf8(request));
  RouteLibraryLogs();
  grpc::ClientContext context;
  const SignalWatch signals([&context] { context.TryCancel(); });  // before gRPC has threads
  ASSIGN_OR_RETURN(const auto access, Access::Open(options.access));
  access.Authorize(&context);
  ASSIGN_OR_RETURN(const auto channel, Connect(options.server, access));
  const auto stub = v1::Inference::NewStub(channel);
  const auto reader = stub->Generate(&context, request);
  ASSIGN_OR_RETURN(
      const auto result,
      Stream(&context, reader.get(), request.has_n() ? request.n() : 1, /*show=*/!options.json));
  return WriteToStdout(options.json ? ResultJson(result) : Ending(result, options.metrics));
}

}  // namespace strata::server
