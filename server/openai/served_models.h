#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/http/http_message.h"

namespace strata::server {

// INVALID_ARGUMENT unless `text` can be the name of a model: 1 to 256 bytes of UTF-8 without
// control characters, and no slash at its end, which a path would lose.
absl::Status CheckModelName(const std::string& text);

// The names of the one model served over HTTP. Immutable; any thread.
class ServedModels {
 public:
  // REQUIRES: at least one name. Answers carry the first; requests may use any of them.
  ServedModels(std::vector<std::string> names, int32_t max_positions);

  const std::string& name() const { return names_.front(); }

  // NOT_FOUND, with OpenAI's code model_not_found, unless `asked` is one of the names, or empty.
  absl::Status Check(const std::string& asked) const;

  HttpReply List() const;                        // GET /v1/models
  HttpReply Get(const std::string& name) const;  // GET /v1/models/NAME

 private:
  absl::Status Find(const std::string& asked) const;

  const std::vector<std::string> names_;
  const int32_t max_positions_;
  const int64_t created_;  // seconds since 1970
};

}  // namespace strata::server
