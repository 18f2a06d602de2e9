#include "server/http/http_socket.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace strata::server {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kLinger{2000};

bool WaitFor(int socket, short events, milliseconds limit) {
  pollfd wait{.fd = socket, .events = events, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, static_cast<int>(std::max<int64_t>(limit.count(), 0)));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

bool WaitUntil(int socket, short events, HttpSocket::Time deadline) {
  return WaitFor(socket, events, std::chrono::ceil<milliseconds>(deadline - Clock::now()));
}

}  // namespace

HttpSocket::HttpSocket(int socket, std::shared_ptr<const TlsIdentity> identity)
    : socket_(socket), identity_(std::move(identity)) {
  if (!identity_) return;
  fcntl(socket_, F_SETFL, fcntl(socket_, F_GETFL) | O_NONBLOCK);
  tls_ = SSL_new(identity_->context());
  SSL_set_fd(tls_, socket_);
}

HttpSocket::~HttpSocket() {
  if (in_session_) SSL_shutdown(tls_);
  SSL_free(tls_);
  ERR_clear_error();  // of this thread
}

// Waits for the bytes or room that the session needs after `result`; false when the session is
// over.
bool HttpSocket::WaitAsTlsWants(int result, Time deadline) {
  switch (SSL_get_error(tls_, result)) {
    case SSL_ERROR_WANT_READ:
      return WaitUntil(socket_, POLLIN, deadline);
    case SSL_ERROR_WANT_WRITE:
      return WaitUntil(socket_, POLLOUT, deadline);
    case SSL_ERROR_ZERO_RETURN:
      return false;
    default:
      in_session_ = false;  // nothing more may be sent in it
      return false;
  }
}

bool HttpSocket::Handshake(Time deadline) {
  if (!identity_) return true;
  for (;;) {
    ERR_clear_error();
    const int result = SSL_accept(tls_);
    if (result == 1) return in_session_ = true;
    if (!WaitAsTlsWants(result, deadline)) return false;
  }
}

bool HttpSocket::has_unread() const {
  return begin_ < end_ || (tls_ != nullptr && SSL_pending(tls_) > 0);
}

bool HttpSocket::Fill(Time deadline) {
  begin_ = end_ = 0;
  for (;;) {
    if (tls_ == nullptr) {
      if (!WaitUntil(socket_, POLLIN, deadline)) return false;
      const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), 0);
      end_ = static_cast<size_t>(std::max<ssize_t>(got, 0));
      return got > 0;
    }
    ERR_clear_error();
    if (SSL_read_ex(tls_, buffer_.data(), buffer_.size(), &end_) == 1) return true;
    if (!WaitAsTlsWants(0, deadline)) return false;
  }
}

size_t HttpSocket::Read(char* bytes, size_t size, Time deadline) {
  if (begin_ == end_ && !Fill(deadline)) return 0;
  const size_t count = std::min(size, end_ - begin_);
  std::memcpy(bytes, buffer_.data() + begin_, count);
  begin_ += count;
  return count;
}

ssize_t HttpSocket::Write(const char* bytes, size_t size, milliseconds limit) {
  if (size == 0) return 0;
  const Time deadline = Clock::now() + limit;
  for (;;) {
    if (tls_ != nullptr) {
      size_t sent = 0;
      ERR_clear_error();
      if (SSL_write_ex(tls_, bytes, size, &sent) == 1) return static_cast<ssize_t>(sent);
      if (!WaitAsTlsWants(0, deadline)) return -1;
      continue;
    }
    const ssize_t sent = send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return -1;
    if (!WaitUntil(socket_, POLLOUT, deadline)) return -1;
  }
}

bool HttpSocket::IsWritable(milliseconds limit) const {
  return WaitFor(socket_, POLLOUT, limit) && !WaitFor(socket_, POLLRDHUP, {});
}

void HttpSocket::Linger() {
  if (std::exchange(in_session_, false)) SSL_shutdown(tls_);
  shutdown(socket_, SHUT_WR);
  const Time end = Clock::now() + kLinger;
  while (Clock::now() < end && WaitUntil(socket_, POLLIN, end) &&
         recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT) > 0) {
  }
}

}  // namespace strata::server
