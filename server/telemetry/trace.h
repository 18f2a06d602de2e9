#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "engine/serve/observer.h"

namespace strata::server {

// A timeline of the engine in Chrome's trace-event JSON, which Perfetto opens (ui.perfetto.dev):
//
//   engine     a span for each step, in it plan, forward, sample and commit; arguments: the numbers
//              of sequences and tokens. Sampling is spread over the commit and drawn as one.
//   request    a track for each sequence: queued, prefill, decode, preempted, until it ends
//   counters   blocks used, sequences running and waiting, after each step
//
// Written by a thread of its own, ten times a second, so that no disk holds up the engine. Events
// without room in the queue are dropped, counted, and reported in the log and in the file. A write
// that fails (the disk is full) ends the trace with one warning, never the server. The file is a
// JSON array that is closed when the trace ends; after SIGKILL the end is missing, which readers of
// the format accept.
//
// Threads: the observer's methods, all on the engine's thread.
class Trace final : public engine::EngineObserver {
 public:
  // Empties the file at `path`. One line naming it and the system's reason if it cannot be opened.
  // Passes all observations on to `next`, which outlives the trace and may be null.
  static absl::StatusOr<std::unique_ptr<Trace>> Open(const std::string& path,
                                                     engine::EngineObserver* next);
  ~Trace() override;  // writes queued events and closes the array

  void OnStep(const engine::StepStats& step) override;
  void OnPhase(const engine::PhaseChange& change) override;
  void OnFinished(const std::string& request_id, const engine::FinishedEvent& event) override;
  void OnAbort(const engine::AbortStats& abort) override;
  void OnNote(const std::string& note) override;

  // Events that were dropped so far.
  int64_t dropped() const { return dropped_.load(); }

 private:
  using Time = engine::Request::Time;
  // A step, without its spans; or the beginning or end of a sequence's span.
  struct Event {
    enum class Kind : uint8_t { kStep, kBegin, kEnd } kind = Kind::kStep;
    engine::StepStats step = {};
    Time time = {};
    const char* name = "";
    uint64_t track = 0;
    std::string request_id = {};  // of the span that is a whole sequence
    int32_t index = 0;
    const char* reason = "";  // at its end
    int32_t tokens = 0;
  };
  struct Track {
    uint64_t number = 0;
    const char* phase = "";
  };

  Trace(int file, std::string path, engine::EngineObserver* next);
  void Push(Event event);
  void Run();
  // Waits for the next time to write; false when it is the last.
  bool Take(std::vector<Event>* events);
  void Write(const std::vector<Event>& events);
  void Flush(const std::string& text);

  const int file_;
  const std::string path_;
  engine::EngineObserver* const next_;
  const Time start_ = std::chrono::steady_clock::now();

  // The engine's thread: the sequences whose spans are open, by request id and index.
  std::map<std::pair<std::string, int32_t>, Track> tracks_;
  uint64_t num_tracks_ = 0;

  std::atomic<int64_t> dropped_ = 0;
  std::atomic<bool> failed_ = false;
  Mutex mutex_;
  CondVar wake_;
  std::vector<Event> events_ STRATA_GUARDED_BY(mutex_);
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when the rest stands
};

}  // namespace strata::server
