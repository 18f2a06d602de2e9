#include <unistd.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/client.h"
#include "server/commands.h"
#include "server/generate_report.h"
#include "server/grpc_server.h"
#include "server/signal_watch.h"
#include "server/standard_output.h"
#include "server/unicode.h"
#include "strata/v1/inference.grpc.pb.h"

namespace strata::server {
namespace {

absl::StatusOr<std::string> ReadPrompt(const GenerateOptions& options) {
  if (options.prompt) return *options.prompt;
  std::string text;
  if (*options.prompt_file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
    return text;
  }
  std::ifstream file(*options.prompt_file, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open() || file.bad()) {
    return absl::NotFoundError(absl::StrCat("--prompt-file: cannot read ", *options.prompt_file));
  }
  return text;
}

v1::GenerateRequest MakeRequest(const GenerateOptions& options, std::string prompt) {
  v1::GenerateRequest request;
  request.set_text(std::move(prompt));
  if (options.max_tokens) request.set_max_tokens(*options.max_tokens);
  if (options.temperature) request.set_temperature(*options.temperature);
  if (options.top_k) request.set_top_k(*options.top_k);
  if (options.top_p) request.set_top_p(*options.top_p);
  if (options.min_p) request.set_min_p(*options.min_p);
  if (options.seed) request.set_seed(*options.seed);
  if (options.ignore_eos) request.set_ignore_eos(true);
  return request;
}

void Collect(const v1::GenerateEvent& event, GenerateResult* result) {
  result->request_id = event.request_id();
  if (event.has_started()) {
    const auto& ids = event.started().prompt_token_ids();
    result->prompt_token_ids.assign(ids.begin(), ids.end());
    result->seed = event.started().seed();
  } else if (event.has_delta()) {
    result->text += event.delta().text();
    const auto& ids = event.delta().token_ids();
    result->token_ids.insert(result->token_ids.end(), ids.begin(), ids.end());
  } else if (event.has_finished()) {
    result->reason = event.finished().reason();
    result->metrics = event.finished().metrics();
  }
}

// Reads the stream to its end; text goes to stdout as it comes, unless JSON is wanted. What is
// wrong with stdout cancels the call, and comes before the server's words about that.
absl::StatusOr<GenerateResult> Stream(grpc::ClientContext* context,
                                      grpc::ClientReader<v1::GenerateEvent>* reader, bool json) {
  GenerateResult result;
  absl::Status written;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    Collect(event, &result);
    if (json || !event.has_delta() || !written.ok()) continue;
    written = WriteToStdout(event.delta().text());
    if (!written.ok()) context->TryCancel();
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  if (!written.ok()) return written;
  if (!status.ok()) return status;
  return result;
}

}  // namespace

absl::Status RunGenerate(const GenerateOptions& options) {
  auto prompt = ReadPrompt(options);
  if (!prompt.ok()) return prompt.status();
  if (const auto offset = FindInvalidUtf8(*prompt)) {  // gRPC would refuse it without a reason
    return absl::InvalidArgumentError(absl::StrCat("prompt: not UTF-8 at byte ", *offset));
  }
  RouteGrpcLog();
  grpc::ClientContext context;
  const SignalWatch signals([&context] { context.TryCancel(); });
  const auto channel = Connect(options.server);
  if (!channel.ok()) return channel.status();
  const auto stub = v1::Inference::NewStub(*channel);
  const auto reader = stub->Generate(&context, MakeRequest(options, *std::move(prompt)));
  const auto result = Stream(&context, reader.get(), options.json);
  if (!result.ok()) return result.status();
  if (options.json) return WriteToStdout(ResultJson(*result));
  std::string ending = "\n";
  if (options.metrics) ending.append("\n").append(MetricsText(result->metrics));
  return WriteToStdout(ending);
}

}  // namespace strata::server
