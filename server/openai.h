#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "server/generation.h"
#include "server/http_message.h"

namespace strata::server {

class OpenAiCompletion;

// OpenAI's API for one model. Each call blocks its thread as long as it generates.
// Threads: every method may be called from any thread.
class OpenAi {
 public:
  // At most `max_generations` at a time; more are answered with 429.
  OpenAi(const GenerationContext& context, int max_generations);

  HttpReply Models() const;                        // GET /v1/models
  HttpReply Model(const std::string& name) const;  // GET /v1/models/NAME
  HttpReply Complete(const HttpCall& call);        // POST /v1/completions

 private:
  struct Place;
  absl::Status Begin(const HttpCall& call, std::shared_ptr<Caller> caller, const Place& place,
                     std::shared_ptr<OpenAiCompletion>* completion);

  const GenerationContext context_;
  const int max_generations_;
  const int64_t created_;  // seconds since 1970
  std::atomic<int> generations_ = 0;
};

}  // namespace strata::server
