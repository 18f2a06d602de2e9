#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::server {

// The lines of a request up to its body, as they come in, before the library sees them.
//
// Where the body ends must be the same to this server and to a proxy in front of it, or the rest of
// a body is a request that nobody sent (RFC 9112, sections 6.3 and 11.2). The library takes the
// first of several lengths, decodes "%31", skips lines that it cannot read; so what two parsers
// could read differently is an error here. The values that are kept are the client's bytes, which
// the library would decode: a "%0a" may become no line's end of an answer.
class HttpHead {
 public:
  // The next line with its end, the request line first. False: the library is not to see it.
  bool Add(std::string_view line);

  // What is wrong with the lines so far; empty: nothing.
  const std::string& error() const { return error_; }
  // How the length of a body is given; neither: there is no body.
  bool has_length() const { return has_length_; }
  bool chunked() const { return chunked_; }
  // There is one, and it is not known to be of 0 bytes.
  bool has_body() const { return has_body_; }

  // The client's X-Request-Id: at most 128 bytes, no control characters. Empty: there is none.
  const std::string& request_id() const { return request_id_; }
  // Headers by which a browser names the page that asks, and in a preflight what the page will
  // send: Origin, Access-Control-Request-Method and -Headers. Empty: not there.
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
