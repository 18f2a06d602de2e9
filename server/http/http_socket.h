#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>

#include "openssl/types.h"
#include "server/security/tls.h"

namespace strata::server {

// The bytes of one connection, plain or over TLS. Owns the session, not the socket. One thread.
class HttpSocket {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Without an identity: plain.
  HttpSocket(int socket, std::shared_ptr<const TlsIdentity> identity);
  ~HttpSocket();  // tells the peer that no more comes
  HttpSocket(const HttpSocket&) = delete;
  HttpSocket& operator=(const HttpSocket&) = delete;

  int socket() const { return socket_; }

  // TLS's handshake, before anything else; false if there is no session by `deadline`, or no
  // agreement.
  bool Handshake(Time deadline);

  // Whether bytes have arrived that poll() does not report.
  bool has_unread() const;
  // At least one byte and at most `size`; 0 at the end of the connection, and at `deadline`.
  size_t Read(char* bytes, size_t size, Time deadline);
  // Writes some, waiting up to `limit` for room; -1 when the peer is gone or takes nothing.
  ssize_t Write(const char* bytes, size_t size, std::chrono::milliseconds limit);
  // Whether there is room for bytes within `limit`, and the peer has not closed its side.
  bool IsWritable(std::chrono::milliseconds limit) const;

  // Announces the end of our bytes, then reads for a while the bytes that the peer is still
  // sending. Closing at once would reset the connection, and the peer would not see the answer that
  // names its error.
  void Linger();

 private:
  bool Fill(Time deadline);
  bool WaitAsTlsWants(int result, Time deadline);

  const int socket_;
  const std::shared_ptr<const TlsIdentity> identity_;  // null: plain
  SSL* tls_ = nullptr;
  bool in_session_ = false;  // TLS: agreed on, and not broken
  std::array<char, 8192> buffer_;
  size_t begin_ = 0;  // [begin_, end_) of the buffer is unread
  size_t end_ = 0;
};

}  // namespace strata::server
