#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "openssl/types.h"
#include "server/security/file_watch.h"

namespace strata::server {

// Files in PEM. Without a certificate there is no TLS.
struct TlsFiles {
  std::string cert;       // the server's, and those up to an authority that clients trust
  std::string key;        // its private key, without a passphrase
  std::string client_ca;  // authorities of clients; empty: any client
};

// A certificate, its key and the authorities of clients, read and checked. Immutable.
class TlsIdentity {
 public:
  // INVALID_ARGUMENT or NOT_FOUND, one line that names option and file: missing, not PEM, expired
  // or not valid yet, a key that does not belong to the certificate.
  static absl::StatusOr<std::shared_ptr<const TlsIdentity>> Load(const TlsFiles& files);
  ~TlsIdentity();

  // Contents of the files.
  const std::string& cert() const { return cert_; }
  const std::string& key() const { return key_; }
  const std::string& client_ca() const { return client_ca_; }  // empty: any client
  // For connections that OpenSSL serves. Lives as long as the identity.
  SSL_CTX* context() const { return context_; }

 private:
  TlsIdentity() = default;

  std::string cert_;
  std::string key_;
  std::string client_ca_;
  SSL_CTX* context_ = nullptr;
};

// The identity in use, read again when its files change. If they cannot be used, the log says so
// and the earlier identity stays.
//
// Threads: current() from any thread.
class TlsStore {
 public:
  // Errors as TlsIdentity::Load.
  static absl::StatusOr<std::unique_ptr<TlsStore>> Open(const TlsFiles& files);

  std::shared_ptr<const TlsIdentity> current() const;
  bool asks_clients() const { return !files_.client_ca.empty(); }

 private:
  TlsStore(TlsFiles files, FileStamps stamps, std::shared_ptr<const TlsIdentity> identity);
  void Reload();

  const TlsFiles files_;
  mutable Mutex mutex_;
  std::shared_ptr<const TlsIdentity> identity_ STRATA_GUARDED_BY(mutex_);
  FileWatch watch_;  // last: calls Reload
};

}  // namespace strata::server
