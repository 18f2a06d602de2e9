#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/generation/generation.h"
#include "server/http/http_message.h"
#include "server/openai/served_models.h"

namespace strata::server {

class OpenAiCompletion;

// OpenAI's API for one model. Each call blocks its thread while it generates.
// Threads: every method may be called from any thread.
class OpenAi {
 public:
  // At most `max_generations` run at a time; more are answered with 429. `names` are the names of
  // the model; answers carry the first; empty: the engine's name.
  OpenAi(const GenerationContext& context, int max_generations,
         std::vector<std::string> names = {});

  const ServedModels& models() const { return models_; }
  HttpReply Complete(const HttpCall& call);  // POST /v1/completions

 private:
  struct Place;
  absl::Status Begin(const HttpCall& call, std::shared_ptr<Caller> caller, const Place& place,
                     std::shared_ptr<OpenAiCompletion>* completion);

  const GenerationContext context_;
  const int max_generations_;
  const ServedModels models_;
  std::atomic<int> generations_ = 0;
};

}  // namespace strata::server
