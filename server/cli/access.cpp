#include "server/cli/access.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "grpc/grpc_security_constants.h"
#include "kvcache/base/errors.h"
#include "server/base/read_file.h"

namespace strata::server {
namespace {

// Metadata takes nothing else; a call would fail without saying why.
bool IsPrintable(const std::string& text) {
  for (const char c : text) {
    if (c <= ' ' || c > '~') return false;
  }
  return !text.empty();
}

absl::StatusOr<std::string> ReadKey(const std::string& path) {
  std::string key;
  if (!path.empty()) {
    ASSIGN_OR_RETURN(auto text, ReadCredentials("api-key-file", path));
    key = std::string(absl::StripAsciiWhitespace(text));
  } else if (const char* variable = std::getenv("STRATA_API_KEY")) {
    key = variable;
  }
  if (path.empty() && key.empty()) return key;
  if (IsPrintable(key)) return key;
  return absl::InvalidArgumentError(
      absl::StrCat(path.empty() ? "STRATA_API_KEY: " : absl::StrCat("api-key-file: ", path, " "),
                   "holds no key, which is one word of ASCII"));
}

}  // namespace

Access::Access() : credentials_(grpc::InsecureChannelCredentials()) {}

absl::StatusOr<Access> Access::Open(const AccessOptions& options) {
  Access access;
  access.server_name_ = options.tls_server_name;
  ASSIGN_OR_RETURN(auto key, ReadKey(options.api_key_file));
  if (!key.empty()) access.authorization_ = absl::StrCat("Bearer ", key);
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("tls-cert: needs tls-key, and tls-key needs tls-cert");
  }
  if (options.tls_ca.empty()) {
    if (options.tls_cert.empty()) return access;
    return absl::InvalidArgumentError(
        "tls-cert: needs tls-ca, which says whose servers are trusted");
  }
  grpc::SslCredentialsOptions ssl;
  const struct {
    const char* option;
    const std::string& path;
    std::string* text;
  } files[] = {{"tls-ca", options.tls_ca, &ssl.pem_root_certs},
               {"tls-cert", options.tls_cert, &ssl.pem_cert_chain},
               {"tls-key", options.tls_key, &ssl.pem_private_key}};
  for (const auto& [option, path, text] : files) {
    if (path.empty()) continue;
    ASSIGN_OR_RETURN(auto read, ReadCredentials(option, path));
    *text = std::move(read);
  }
  access.credentials_ = grpc::SslCredentials(ssl);
  access.over_tls_ = true;
  return access;
}

std::shared_ptr<grpc::Channel> Access::Dial(const std::string& address,
                                            grpc::ChannelArguments arguments) const {
  if (!server_name_.empty()) arguments.SetSslTargetNameOverride(server_name_);
  return grpc::CreateCustomChannel(address, credentials_, arguments);
}

void Access::Authorize(grpc::ClientContext* call) const {
  if (!authorization_.empty()) call->AddMetadata("authorization", authorization_);
}

}  // namespace strata::server
