#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"

namespace strata::server {

// A client's credentials, and its requirements of a server. Files except for the name.
struct AccessOptions {
  std::string tls_ca;           // authorities that may vouch for the server; empty: no TLS
  std::string tls_cert;         // the client's, if the server asks for one; with tls_key
  std::string tls_key;          //
  std::string tls_server_name;  // name in its certificate; empty: the host of its address
  std::string api_key_file;     // empty: the key is in STRATA_API_KEY, or there is none
};

// These options, read and ready for calls. Copies share.
class Access {
 public:
  // One line naming option and file if a file cannot be read or does not fit the others.
  static absl::StatusOr<Access> Open(const AccessOptions& options);
  Access();  // plain, without a key

  // Not connected yet. The arguments may hold more than they need.
  std::shared_ptr<grpc::Channel> Dial(const std::string& address,
                                      grpc::ChannelArguments arguments) const;
  bool over_tls() const { return over_tls_; }
  // Adds the key to a call that has not begun.
  void Authorize(grpc::ClientContext* call) const;

 private:
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
  bool over_tls_ = false;
  std::string server_name_;
  std::string authorization_;  // empty: none
};

}  // namespace strata::server
