#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace strata::server {

// One HTTP request as a handler sees it, and its answer: the interface between the HTTP library and
// the handlers.
struct HttpCall {
  std::string_view body;      // valid during the call
  std::string_view path;      // decoded; valid during the call
  std::string request_id;     // the client's X-Request-Id, else drawn; for logs, not unique
  std::string authorization;  // the client's; may be empty
  int socket = -1;            // to poll for the client's hang-up; not to be read, written or closed
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};

  // Used in place of `body`: called once, after the headers are out, on the connection's thread.
  // `write` blocks until the system has taken the bytes; false: the client is gone, or has read
  // nothing for the write timeout.
  using Write = std::function<bool(std::string_view bytes)>;
  std::function<void(const Write& write)> stream = {};
};

using HttpHandler = std::function<HttpReply(const HttpCall& call)>;

// "req-" and 16 hexadecimal digits.
std::string DrawRequestId();

// {"error":{"message":..,"type":..,"param":..,"code":..}}, OpenAI's form, with the status. `param`
// and `code` may be empty: null.
HttpReply HttpError(int status, std::string_view message, std::string_view param = {},
                    std::string_view code = {});

}  // namespace strata::server
