#include "server/security/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/base/read_file.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

template <auto release>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    release(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;

Bio Open(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Refuses keys with a passphrase instead of asking for it.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*write*/, void* /*data*/) { return -1; }

std::vector<Certificate> ParseCertificates(const std::string& pem) {
  std::vector<Certificate> certificates;
  const Bio bio = Open(pem);
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)) {
    certificates.emplace_back(next);
  }
  ERR_clear_error();
  return certificates;
}

std::string TimeText(const ASN1_TIME* time) {
  const Bio bio(BIO_new(BIO_s_mem()));
  ASN1_TIME_print(bio.get(), time);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

absl::Status CheckDates(const std::string& path, const X509* certificate) {
  const ASN1_TIME* end = X509_get0_notAfter(certificate);
  if (X509_cmp_current_time(end) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls-cert: ", path, " expired on ", TimeText(end)));
  }
  const ASN1_TIME* begin = X509_get0_notBefore(certificate);
  if (X509_cmp_current_time(begin) > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls-cert: ", path, " is not valid before ", TimeText(begin)));
  }
  return absl::OkStatus();
}

absl::Status UseCertificate(const TlsFiles& files, const std::vector<Certificate>& chain,
                            const std::string& key_pem, SSL_CTX* context) {
  const Bio bio = Open(key_pem);
  const PrivateKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  if (!key) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls-key: ", files.key, " holds no private key in PEM without a passphrase"));
  }
  if (X509_check_private_key(chain[0].get(), key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tls-key: ", files.key, " does not belong to the certificate in ", files.cert));
  }
  bool ok = SSL_CTX_use_certificate(context, chain[0].get()) == 1 &&
            SSL_CTX_use_PrivateKey(context, key.get()) == 1;
  for (size_t i = 1; i < chain.size(); ++i) {
    ok = ok && SSL_CTX_add1_chain_cert(context, chain[i].get()) == 1;
  }
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tls-cert: ", files.cert, ": ", ERR_reason_error_string(ERR_peek_last_error())));
}

absl::Status RequireClients(const std::string& path, const std::string& pem, SSL_CTX* context) {
  const std::vector<Certificate> authorities = ParseCertificates(pem);
  if (authorities.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls-client-ca: ", path, " holds no certificate in PEM"));
  }
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  for (const Certificate& authority : authorities) {
    X509_STORE_add_cert(store, authority.get());
    SSL_CTX_add_client_CA(context, authority.get());
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return absl::OkStatus();
}

// TLS 1.2 and up; no session outlives its connection.
Context NewContext() {
  Context context(SSL_CTX_new(TLS_server_method()));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(),
                      SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  return context;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TlsIdentity>> TlsIdentity::Load(const TlsFiles& files) {
  ASSIGN_OR_RETURN(auto cert, ReadCredentials("tls-cert", files.cert));
  ASSIGN_OR_RETURN(auto key, ReadCredentials("tls-key", files.key));
  const std::vector<Certificate> chain = ParseCertificates(cert);
  if (chain.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls-cert: ", files.cert, " holds no certificate in PEM"));
  }
  RETURN_IF_ERROR(CheckDates(files.cert, chain[0].get()));
  Context context = NewContext();
  absl::Status status = UseCertificate(files, chain, key, context.get());
  std::string client_ca;
  if (status.ok() && !files.client_ca.empty()) {
    ASSIGN_OR_RETURN(auto read, ReadCredentials("tls-client-ca", files.client_ca));
    client_ca = std::move(read);
    status = RequireClients(files.client_ca, client_ca, context.get());
  }
  ERR_clear_error();
  if (!status.ok()) return status;
  const std::shared_ptr<TlsIdentity> identity(new TlsIdentity());
  identity->cert_ = std::move(cert);
  identity->key_ = std::move(key);
  identity->client_ca_ = std::move(client_ca);
  identity->context_ = context.release();
  return identity;
}

TlsIdentity::~TlsIdentity() { SSL_CTX_free(context_); }

absl::StatusOr<std::unique_ptr<TlsStore>> TlsStore::Open(const TlsFiles& files) {
  FileStamps stamps({files.cert, files.key, files.client_ca});
  ASSIGN_OR_RETURN(auto identity, TlsIdentity::Load(files));
  return std::unique_ptr<TlsStore>(new TlsStore(files, std::move(stamps), std::move(identity)));
}

TlsStore::TlsStore(TlsFiles files, FileStamps stamps, std::shared_ptr<const TlsIdentity> identity)
    : files_(std::move(files)),
      identity_(std::move(identity)),
      watch_(std::move(stamps), [this] { Reload(); }) {}

std::shared_ptr<const TlsIdentity> TlsStore::current() const {
  const MutexLock lock(mutex_);
  return identity_;
}

void TlsStore::Reload() {
  auto identity = TlsIdentity::Load(files_);
  if (!identity.ok()) {
    spdlog::warn("{}; the certificate before it stays in use",
                 std::string(identity.status().message()));
    return;
  }
  const MutexLock lock(mutex_);
  identity_ = *std::move(identity);
  spdlog::info("tls: {} is in use from now on", files_.cert);
}

}  // namespace strata::server
