#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/http_message.h"

namespace strata::server {

struct HttpRoute {
  std::string method;  // "GET" (then also HEAD) or "POST"
  std::string path;    // the whole path; with a slash at its end every path below it, for GET
  HttpHandler handler;
};

// The served paths, with the methods of each. A path may have several routes.
// Immutable; any thread.
class HttpRoutes {
 public:
  explicit HttpRoutes(std::vector<HttpRoute> routes) : routes_(std::move(routes)) {}

  // The path as the routes spell it: without the slash at its end if a route has the path without
  // one; otherwise unchanged.
  std::string Canonical(std::string_view path) const;

  // The route of a canonical path; null if there is none, or none of this method.
  const HttpRoute* Find(std::string_view method, std::string_view path) const;

  // The methods of a canonical path, "GET, HEAD, POST", in the form of the header Allow; empty if
  // nothing is there.
  std::string MethodsOf(std::string_view path) const;

  const std::vector<HttpRoute>& all() const { return routes_; }

 private:
  const std::vector<HttpRoute> routes_;
};

}  // namespace strata::server
