#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::server {

// The lines of a request up to its body, as they come in, before the library sees them.
//
// This server and a proxy in front of it must agree on the end of the body, or the rest of a body
// becomes a request that nobody sent (RFC 9112, sections 6.3 and 11.2). The library takes the first
// of several lengths, decodes "%31" and skips lines that it cannot read. So any line that two
// parsers could read differently is an error here. The kept values are the client's bytes; the
// library would decode them: a "%0a" must not become a line end of an answer.
class HttpHead {
 public:
  // Adds the next line with its end, the request line first. False: the library must not see it.
  bool Add(std::string_view line);

  // The error in the lines so far; empty if there is none.
  const std::string& error() const { return error_; }
  // The two ways to give the length of a body; neither: there is no body.
  bool has_length() const { return has_length_; }
  bool chunked() const { return chunked_; }
  // Whether there is a body that is not known to be empty.
  bool has_body() const { return has_body_; }

  // The client's X-Request-Id: at most 128 bytes, no control characters. Empty if there is none.
  const std::string& request_id() const { return request_id_; }
  // Headers by which a browser names the asking page, and in a preflight the method and headers
  // that the page will send: Origin, Access-Control-Request-Method and -Headers. Empty if missing.
  const std::string& origin() const { return origin_; }
  const std::string& requested_method() const { return requested_method_; }
  const std::string& requested_headers() const { return requested_headers_; }

 private:
  void Fail(std::string_view error);
  void AddRequestId(std::string_view value);
  void AddLength(std::string_view value);
  void AddCoding(std::string_view value);

  int64_t num_lines_ = 0;
  bool has_length_ = false;
  bool chunked_ = false;
  bool has_body_ = false;
  bool has_request_id_ = false;
  std::string request_id_;
  std::string origin_;
  std::string requested_method_;
  std::string requested_headers_;
  std::string error_;
};

}  // namespace strata::server
