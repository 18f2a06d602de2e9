#include "server/http/http_server.h"

#include <atomic>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/http_client.h"

namespace strata::server::http_server_test {
namespace {

using std::chrono::milliseconds;
using Client = testing::HttpClient;

// Time limit of a connection that should be closed: the test fails after it, not after minutes.
constexpr milliseconds kFailSoon{5000};

int NumAnswers(const std::string& text) {
  int count = 0;
  const std::string begin = "HTTP/1.1 ";
  for (size_t at = 0; (at = text.find(begin, at)) != std::string::npos;) {
    at += begin.size();
    count += text[at] >= '1' && text[at] <= '5' ? 1 : 0;
  }
  return count;
}

std::string Repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Serve(size_t max_connections) {
    HttpOptions options;
    options.address = "127.0.0.1:0";
    options.write_timeout = milliseconds(200);
    options.max_connections = max_connections;
    options.idle_timeout = idle_timeout_;
    options.request_timeout = request_timeout_;
    options.max_age = max_age_;
    options.gate = gate_;
    options.routes = {
        {"GET", "/ping", [](const HttpCall&) { return HttpReply{.body = "pong"}; }},
        {"POST", "/echo",
         [](const HttpCall& call) { return HttpReply{.body = std::string(call.body)}; }},
        {"GET", "/wait",
         [this](const HttpCall&) {
           waiting_.count_down();
           released_.wait();
           return HttpReply{.body = "done"};
         }},
        {"GET", "/flood", [this](const HttpCall&) {
           HttpReply reply;
           reply.stream = [this](const HttpReply::Write& write) {
             const std::string piece(1 << 16, 'x');
             while (write(piece)) {
             }
             flood_ended_.count_down();
           };
           return reply;
         }}};
    auto server = HttpServer::Start(std::move(options), payload_limit_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // The server's whole answer to `bytes`. Checks that it announces and ends the connection's close.
  std::string AnswerAndEnd(const std::string& bytes) {
    Client client(server_->address());
    client.Send(bytes);
    const std::string answer = client.Read("never");
    EXPECT_NE(answer.find("\r\nConnection: close\r\n"), std::string::npos) << bytes;
    EXPECT_EQ(NumAnswers(answer), 1) << bytes << answer;
    return answer;
  }

  size_t payload_limit_ = 1000;
  milliseconds idle_timeout_{75000};
  milliseconds request_timeout_{30000};
  milliseconds max_age_{};
  HttpGate gate_;
  std::latch waiting_{1};
  std::latch released_{1};
  std::latch flood_ended_{1};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersOneAfterAnother) {
  Serve(8);
  Client client(server_->address());
  for (int i = 0; i < 3; ++i)
    EXPECT_NE(client.Get("/ping", "pong").find(" 200 "), std::string::npos);
  client.Send("GET /ping HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_NE(client.Read("pong").find(" 200 "), std::string::npos);
  EXPECT_NE(client.Read("hi").find(" 200 "), std::string::npos);
  EXPECT_NE(client.Get("/none", "}}").find(" 404 "), std::string::npos);
}

TEST_F(HttpServerTest, LimitsWhatARequestMaySend) {
  Serve(8);
  Client body(server_->address());
  body.Send("POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n" + std::string(1001, 'x'));
  EXPECT_NE(body.Read("1000 bytes").find(" 413 "), std::string::npos);
  Client headers(server_->address());
  std::string many = "GET /ping HTTP/1.1\r\n";
  for (int i = 0; i < 10000; ++i) many += "A: 123456789\r\n";
  headers.Send(many + "\r\n");
  const std::string answer = headers.Read("never");  // to the end of the connection
  EXPECT_EQ(answer.rfind("HTTP/1.1 431 ", 0), 0U) << answer;
  EXPECT_EQ(answer.find("HTTP/1.1 4", 1), std::string::npos);  // one answer
}

TEST_F(HttpServerTest, KnowsNoRanges) {
  Serve(8);
  const std::string many = "bytes=-" + Repeat(",-", 4000);
  for (const std::string& range : {std::string("bytes=0-1"), many, many + ",5-3"}) {
    Client client(server_->address());
    client.Send("GET /ping HTTP/1.1\r\nrange:" + range + "\r\nConnection: close\r\n\r\n");
    const std::string answer = client.Read("never");
    EXPECT_EQ(answer.rfind("HTTP/1.1 200 ", 0), 0U) << answer.substr(0, 1000);
    EXPECT_TRUE(answer.ends_with("\r\n\r\npong")) << answer.substr(0, 1000);
    EXPECT_EQ(answer.find("Content-Range"), std::string::npos);
  }
  Client client(server_->address());
  client.Send("HEAD /ping HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(client.Read("never").find("Accept-Ranges: none"), std::string::npos);
}

TEST_F(HttpServerTest, TakesABodyAsItIsWhateverItsType) {
  payload_limit_ = 20000;
  Serve(8);
  const std::string text = "{\"a\":1}" + std::string(10000, ' ') + "&b=%20";
  for (const std::string type :
       {"application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a"}) {
    Client client(server_->address());
    client.Send("POST /echo HTTP/1.1\r\nContent-Type: " + type +
                "\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text);
    const std::string answer = client.Read("&b=%20");
    EXPECT_EQ(answer.rfind("HTTP/1.1 200 ", 0), 0U) << answer;
    EXPECT_TRUE(answer.ends_with("\r\n\r\n" + text)) << type;
  }
}

TEST_F(HttpServerTest, ABodyIsNoRequest) {
  idle_timeout_ = kFailSoon;
  Serve(8);
  const std::string inner = "GET /none HTTP/1.1\r\n\r\n";
  const std::string length = "\r\nContent-Length: " + std::to_string(inner.size());
  const std::string chunked = "\r\nTransfer-Encoding: chunked";
  for (const std::string& framing : {length, chunked}) {
    const std::string rest = " HTTP/1.1" + framing + "\r\n\r\n" + inner;
    EXPECT_TRUE(AnswerAndEnd("GET /ping" + rest).ends_with("pong"));
    AnswerAndEnd("HEAD /ping" + rest);
    for (const std::string method : {"OPTIONS", "DELETE", "PUT", "TRACE"}) {
      AnswerAndEnd(method + " /ping" + rest);
    }
  }
  // The library takes any bytes for the end of a chunk.
  AnswerAndEnd("POST /echo HTTP/1.1" + chunked + "\r\n\r\n2\r\nhiX\r\n" + inner);
}

TEST_F(HttpServerTest, RefusesWhatTwoCouldReadDifferently) {
  idle_timeout_ = kFailSoon;
  Serve(8);
  // Heads, and the server's own words for them: the library refuses some too, for other reasons.
  const std::string twice = "the length of the body is given twice";
  const std::string no_number = "Content-Length: not a number";
  const std::string no_coding = "Transfer-Encoding: not \\\"chunked\\\"";
  const std::string no_header = "a header is not";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"Content-Length: 2\r\nContent-Length: 3", twice},
      {"Content-Length: 2\r\ncontent-length: 2", twice},
      {"Content-Length: 2\r\nTransfer-Encoding: chunked", twice},
      {"Transfer-Encoding: chunked\r\nContent-Length: 2", twice},
      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", twice},
      {"Transfer-Encoding: gzip, chunked", no_coding},
      {"Transfer-Encoding: identity", no_coding},
      {"Transfer-Encoding:", no_coding},
      {"Content-Length:", no_number},
      {"Content-Length: +2", no_number},
      {"Content-Length: -2", no_number},
      {"Content-Length: 2,2", no_number},
      {"Content-Length: 0x2", no_number},
      {"Content-Length: 2 2", no_number},
      {"Content-Length: %32", no_number},  // the library decodes a header's text
      {"Content-Length : 2", no_header},
      {"Content-Length\r\nContent-Length: 2", no_header},
      {" Content-Length: 3\r\nContent-Length: 2", no_header},
      {"A: b\r\n Content-Length: 3\r\nContent-Length: 2", no_header},
      {"A: b\nContent-Length: 3\r\nContent-Length: 2", no_header},
      {"A: b\rContent-Length: 3\r\nContent-Length: 2", no_header},
      {std::string("A: b\0\r\nContent-Length: 2", 25), no_header},
      {": b\r\nContent-Length: 2", no_header},
  };
  for (const auto& [head, words] : cases) {
    const std::string answer =
        AnswerAndEnd("POST /echo HTTP/1.1\r\n" + head + "\r\n\r\nhiGET /ping HTTP/1.1\r\n\r\n");
    EXPECT_EQ(answer.rfind("HTTP/1.1 400 ", 0), 0U) << head << answer;
    EXPECT_NE(answer.find(words), std::string::npos) << head << answer;
  }
}

TEST_F(HttpServerTest, APostWithoutALengthHasNoBody) {
  Serve(8);
  Client client(server_->address());
  client.Send("POST /echo HTTP/1.1\r\n\r\nGET /ping HTTP/1.1\r\n\r\n");
  const std::string answer = client.Read("pong");
  EXPECT_EQ(NumAnswers(answer), 2) << answer;
  EXPECT_NE(answer.find("\r\nContent-Length: 0\r\n"), std::string::npos) << answer;
}

TEST_F(HttpServerTest, LimitsABodyInChunks) {
  idle_timeout_ = kFailSoon;
  Serve(8);
  const std::string head = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string most(500, 'x');
  const std::string chunk = "1f4\r\n" + most + "\r\n";
  const std::string end = "0\r\n\r\n";
  EXPECT_TRUE(AnswerAndEnd(head + chunk + chunk + end).ends_with("\r\n\r\n" + most + most));
  const std::string over = "\"the body is over 1000 bytes\"";
  for (const std::string& body : {chunk + chunk + "1\r\nx\r\n" + end,
                                  "20000\r\n" + std::string(0x20000, 'x') + "\r\n" + end}) {
    const std::string answer = AnswerAndEnd(head + body);
    EXPECT_EQ(answer.rfind("HTTP/1.1 413 ", 0), 0U) << answer;
    EXPECT_NE(answer.find(over), std::string::npos) << answer;
  }
  const std::string sizes = AnswerAndEnd(head + Repeat(std::string(200, '0') + "1\r\nx\r\n", 400));
  EXPECT_EQ(sizes.rfind("HTTP/1.1 413 ", 0), 0U) << sizes;
  EXPECT_NE(sizes.find("65536 bytes"), std::string::npos) << sizes;
  EXPECT_EQ(AnswerAndEnd(head + "x\r\n").rfind("HTTP/1.1 400 ", 0), 0U);
}

TEST_F(HttpServerTest, SaysWhichLineIsTooLong) {
  Serve(8);
  const std::string line = AnswerAndEnd("GET /" + std::string(9000, 'x') + " HTTP/1.1\r\n\r\n");
  EXPECT_EQ(line.rfind("HTTP/1.1 414 ", 0), 0U) << line;
  EXPECT_NE(line.find("8192 bytes"), std::string::npos) << line;
  const std::string header =
      AnswerAndEnd("GET /ping HTTP/1.1\r\nA: " + std::string(9000, 'x') + "\r\n\r\n");
  EXPECT_EQ(header.rfind("HTTP/1.1 400 ", 0), 0U) << header;
}

TEST_F(HttpServerTest, TakesNoCompressedBody) {
  Serve(8);
  Client client(server_->address());
  client.Send("POST /echo HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_EQ(client.Read("never").rfind("HTTP/1.1 415 ", 0), 0U);  // and the connection ends
}

TEST_F(HttpServerTest, AGateIsAskedBeforeTheBodyIsRead) {
  gate_ = [](const HttpCall& call) -> std::optional<HttpReply> {
    if (call.path == "/ping" || call.authorization == "yes") return std::nullopt;
    return HttpError(401, "no");
  };
  Serve(8);
  Client client(server_->address());
  EXPECT_NE(client.Get("/ping", "pong").find(" 200 "), std::string::npos);
  EXPECT_NE(client.Get("/none", "}}").find(" 401 "), std::string::npos);
  client.Send("POST /echo HTTP/1.1\r\nAuthorization: yes\r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_NE(client.Read("hi").find(" 200 "), std::string::npos);
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 100\r\n\r\n");  // nothing more
  EXPECT_EQ(client.Read("never").rfind("HTTP/1.1 401 ", 0), 0U);
}

TEST_F(HttpServerTest, ARequestThatComesSlowlyIsGivenUp) {
  request_timeout_ = milliseconds(200);
  Serve(8);
  Client slow(server_->address());
  slow.Send("GET /ping HTTP/1.1\r\n");
  const auto begin = std::chrono::steady_clock::now();
  std::string answer;
  std::thread reader([&] { answer = slow.Read("never"); });
  for (int i = 0; i < 100; ++i) {  // a byte at a time, for ten times the timeout
    slow.TrySend("A");
    std::this_thread::sleep_for(milliseconds(20));
  }
  reader.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  EXPECT_EQ(answer.find("pong"), std::string::npos);
  EXPECT_NE(Client(server_->address()).Get("/ping", "pong").find(" 200 "), std::string::npos);
}

TEST_F(HttpServerTest, SlowRequestsKeepNobodyOut) {
  Serve(2);
  Client first(server_->address());
  Client second(server_->address());
  for (Client* slow : {&first, &second}) slow->Send("GET /ping HTTP/1.1\r\nA: ");
  for (int i = 0; i < 10; ++i) {
    EXPECT_NE(Client(server_->address()).Get("/ping", "pong").find(" 200 "), std::string::npos);
  }
  // The one whose request began first made room; that need not be the one that was sent first.
  for (int i = 0; i < 1000 && !first.HasEnded() && !second.HasEnded(); ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_TRUE(first.HasEnded() || second.HasEnded());
}

TEST_F(HttpServerTest, AnOldConnectionEndsWithItsAnswer) {
  max_age_ = milliseconds(1);
  Serve(2);
  Client client(server_->address());
  std::string answer;
  for (int i = 0; i < 1000 && answer.find("Connection: close") == std::string::npos; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
    answer = client.Get("/ping", "pong");
  }
  EXPECT_NE(answer.find("Connection: close"), std::string::npos) << answer;
  EXPECT_TRUE(answer.ends_with("pong")) << answer;
  EXPECT_EQ(client.Read("never"), "");
}

TEST_F(HttpServerTest, AnIdleConnectionGivesItsPlaceToANewOne) {
  Serve(2);
  Client first(server_->address());
  Client second(server_->address());
  EXPECT_NE(first.Get("/ping", "pong"), "");
  EXPECT_NE(second.Get("/ping", "pong"), "");
  for (int i = 0; i < 10; ++i) {
    EXPECT_NE(Client(server_->address()).Get("/ping", "pong").find(" 200 "), std::string::npos);
  }
}

TEST_F(HttpServerTest, OverTheLimitIsToldSo) {
  Serve(1);
  Client busy(server_->address());
  busy.Send("GET /wait HTTP/1.1\r\n\r\n");
  waiting_.wait();
  Client refused(server_->address());
  const std::string answer = refused.Read("never");  // to the end of the connection
  EXPECT_EQ(answer.rfind("HTTP/1.1 503 ", 0), 0U) << answer;
  EXPECT_NE(answer.find("\r\nContent-Length: 99\r\n"), std::string::npos);
  EXPECT_NE(answer.find("\r\nx-request-id: req-"), std::string::npos);
  EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, 99U);
  released_.count_down();
  EXPECT_NE(busy.Read("done").find(" 200 "), std::string::npos);
}

TEST_F(HttpServerTest, AStreamEndsWithItsReader) {
  Serve(2);
  {
    Client gone(server_->address());
    gone.Get("/flood", "xxx");
  }
  flood_ended_.wait();
}

TEST_F(HttpServerTest, AReaderThatStandsStillIsGivenUp) {
  Serve(2);
  Client still(server_->address());
  still.Get("/flood", "xxx");
  flood_ended_.wait();
}

TEST_F(HttpServerTest, StopLetsARunningCallFinish) {
  Serve(4);
  Client idle(server_->address());
  Client busy(server_->address());
  EXPECT_NE(idle.Get("/ping", "pong"), "");
  busy.Send("GET /wait HTTP/1.1\r\n\r\n");
  waiting_.wait();
  std::thread stop([this] { server_->Stop(std::chrono::seconds(60)); });
  EXPECT_EQ(idle.Read("never"), "");  // it is closed at once
  released_.count_down();
  EXPECT_NE(busy.Read("done").find(" 200 "), std::string::npos);
  stop.join();
}

TEST_F(HttpServerTest, APortInUseIsAnError) {
  Serve(1);
  HttpOptions options;
  options.address = server_->address();
  const auto second = HttpServer::Start(std::move(options), 1000);
  EXPECT_EQ(second.status().message(),
            "cannot listen on " + server_->address() + ": Address already in use");
}

}  // namespace
}  // namespace strata::server::http_server_test
