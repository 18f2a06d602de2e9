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
  std::string cert;       // the server's, and those up to what clients trust
  std::string key;        // its private key, without a passphrase
  std::string client_ca;  // who may be a client; empty: anybody
};

// A certificate, its key and the authorities of clients, read and checked. Immutable.
class TlsIdentity {
 public:
  // INVALID_ARGUMENT or NOT_FOUND, one line that names option and file: not there, not PEM, expired
  // or not valid yet, a key that does not belong to the certificate.
  static absl::StatusOr<std::shared_ptr<const TlsIdentity>> Load(const TlsFiles& files);
  ~TlsIdentity();

  // What the files hold.
  const std::string& cert() const { return cert_; }
  const std::string& key() const { return key_; }
  const std::string& client_ca() const { return client_ca_; }  // empty: anybody
  // For connections that OpenSSL serves. As long as the identity.
  SSL_CTX* context() const { return context_; }

 private:
  TlsIdentity() = default;

  std::string cert_;
  std::string key_;
  std::string client_ca_;
  SSL_CTX* context_ = nullptr;
};

// The identity in use, read again when its files change. What cannot be used is said in the log,
// and the one before it stays.
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
