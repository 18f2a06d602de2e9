#include "server/openai/openai.h"

#include <chrono>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kvcache/base/error_details.h"
#include "server/openai/openai_completion.h"
#include "server/openai/openai_json.h"
#include "server/openai/openai_request.h"

namespace strata::server {
namespace {

int64_t Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace

OpenAi::OpenAi(const GenerationContext& context, int max_generations,
               std::vector<std::string> names)
    : context_(context),
      max_generations_(max_generations),
      models_(
          names.empty() ? std::vector<std::string>{context.engine->model().name} : std::move(names),
          context.engine->model().max_positions) {}

// A completion's place among the running ones, until destruction.
struct OpenAi::Place {
  explicit Place(std::atomic<int>* all) : taken(all), number(all->fetch_add(1) + 1) {}
  ~Place() { taken->fetch_sub(1); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  std::atomic<int>* const taken;
  const int number;  // places taken, including this one
};

absl::Status OpenAi::Begin(const HttpCall& call, std::shared_ptr<Caller> caller, const Place& place,
                           std::shared_ptr<OpenAiCompletion>* completion) {
  ASSIGN_OR_RETURN(auto request, ParseCompletion(call.body, context_.engine->model().defaults));
  RETURN_IF_ERROR(models_.Check(request.model));
  if (place.number > max_generations_) {
    return InField(
        "http", absl::ResourceExhaustedError(absl::StrCat(
                    max_generations_, " completions run or wait over HTTP, which is the limit")));
  }
  const std::string id = request.request_id.empty() ? call.request_id : request.request_id;
  request.generation.log_id = id;
  request.generation.caller = std::move(caller);
  ASSIGN_OR_RETURN(auto started,
                   OpenAiCompletion::Start(
                       context_, std::move(request),
                       {.id = absl::StrCat("cmpl-", id), .created = Now(), .model = models_.name()},
                       call.socket));
  *completion = std::move(started);
  return absl::OkStatus();
}

HttpReply OpenAi::Complete(const HttpCall& call) {
  std::shared_ptr<Caller> caller;
  std::string key;
  const auto place = std::make_shared<Place>(&generations_);
  std::shared_ptr<OpenAiCompletion> completion;
  absl::Status status = AdmitCaller(context_, call.authorization, &caller);
  if (caller) key = caller->key();
  if (status.ok()) status = Begin(call, std::move(caller), *place, &completion);
  if (!status.ok()) {
    RecordRefusal(context_, call.request_id, status, key);
    return StatusReply(status);
  }
  if (!completion->streams()) return completion->Whole();
  // Before the request is known to run, an error can still be the answer's status.
  OpenAiCompletion::Event first = completion->Next();
  if (const auto* ended = std::get_if<absl::Status>(&first.content); ended && !ended->ok()) {
    return StatusReply(*ended);
  }
  return {.content_type = "text/event-stream",
          .stream = [place, completion, first = std::move(first)](const HttpReply::Write& write) {
            completion->Stream(first, write);
          }};
}

}  // namespace strata::server
