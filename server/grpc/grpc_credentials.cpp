#include "server/grpc/grpc_credentials.h"

#include <string>
#include <utility>

#include "engine/base/mutex.h"
#include "grpc/grpc.h"
#include "grpc/grpc_security.h"

// gRPC's C++ classes can change a certificate while the server runs only by an experimental API
// that accepts files which do not fit together, and cannot gate calls of a port without TLS. Its C
// API, which is stable, does both.
namespace strata::server {
namespace {

std::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// Asks the gate about one call's metadata.
void AskGate(void* gate, grpc_auth_context* /*context*/, const grpc_metadata* metadata,
             size_t count, grpc_process_auth_metadata_done_cb done, void* data) {
  std::string_view path;
  std::string_view authorization;
  for (size_t i = 0; i < count; ++i) {
    const std::string_view key = View(metadata[i].key);
    if (key == ":path") path = View(metadata[i].value);
    if (key == "authorization") authorization = View(metadata[i].value);
  }
  const absl::Status status = (*static_cast<CallGate*>(gate))(path, authorization);
  // The codes of absl and gRPC are the same numbers.
  done(data, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
       std::string(status.message()).c_str());
}

// Gives the port's handshakes the identity, again whenever it has changed.
class IdentityFeed {
 public:
  explicit IdentityFeed(const TlsStore* store) : store_(store) {}

  grpc_ssl_certificate_config_reload_status Next(grpc_ssl_server_certificate_config** config) {
    auto identity = store_->current();
    const MutexLock lock(mutex_);
    if (identity == told_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair{.private_key = identity->key().c_str(),
                                          .cert_chain = identity->cert().c_str()};
    // gRPC requires authorities for clients; if none are configured, it asks clients for nothing.
    const std::string& clients = store_->asks_clients() ? identity->client_ca() : identity->cert();
    *config = grpc_ssl_server_certificate_config_create(clients.c_str(), &pair, 1);
    told_ = std::move(identity);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

 private:
  const TlsStore* const store_;
  Mutex mutex_;
  std::shared_ptr<const TlsIdentity> told_ STRATA_GUARDED_BY(mutex_);
};

class PortCredentials final : public grpc::ServerCredentials {
 public:
  PortCredentials(const TlsStore* tls, CallGate gate) : feed_(tls), gate_(std::move(gate)) {
    credentials_ = tls == nullptr ? grpc_insecure_server_credentials_create() : MakeTls(*tls);
    if (!gate_) return;
    grpc_server_credentials_set_auth_metadata_processor(
        credentials_, {.process = AskGate, .destroy = nullptr, .state = &gate_});
  }
  ~PortCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  grpc_server_credentials* MakeTls(const TlsStore& tls) {
    const auto next = [](void* feed, grpc_ssl_server_certificate_config** config) {
      return static_cast<IdentityFeed*>(feed)->Next(config);
    };
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            tls.asks_clients() ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                               : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            next, &feed_));
  }
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  IdentityFeed feed_;
  CallGate gate_;
  grpc_server_credentials* credentials_ = nullptr;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsStore* tls, CallGate gate) {
  return std::make_shared<PortCredentials>(tls, std::move(gate));
}

}  // namespace strata::server
