#include "server/http/http_routes.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace strata::server {
namespace {

bool Matches(const HttpRoute& route, std::string_view path) {
  return route.path.ends_with('/') ? path.starts_with(route.path) : path == route.path;
}

}  // namespace

std::string HttpRoutes::Canonical(std::string_view path) const {
  if (path.ends_with('/')) {
    const std::string_view without = path.substr(0, path.size() - 1);
    const auto matches = [&](const HttpRoute& route) { return Matches(route, without); };
    if (std::ranges::any_of(routes_, matches)) return std::string(without);
  }
  return std::string(path);
}

const HttpRoute* HttpRoutes::Find(std::string_view method, std::string_view path) const {
  if (method == "HEAD") method = "GET";
  const auto found = std::ranges::find_if(routes_, [&](const HttpRoute& route) {
    return route.method == method && Matches(route, path);
  });
  return found == routes_.end() ? nullptr : &*found;
}

std::string HttpRoutes::MethodsOf(std::string_view path) const {
  std::string methods;
  for (const std::string_view method : {"GET", "POST"}) {
    if (Find(method, path) == nullptr) continue;
    absl::StrAppend(&methods, methods.empty() ? "" : ", ", method == "GET" ? "GET, HEAD" : "POST");
  }
  return methods;
}

}  // namespace strata::server
