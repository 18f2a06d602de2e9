#include "tests/load/session.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvcache/base/errors.h"
#include "tests/load/grpc_transport.h"
#include "tests/load/live_view.h"
#include "tests/load/run.h"
#include "tests/load/scrape.h"
#include "tests/load/workload.h"

namespace strata::load {
namespace {

constexpr Time kScrapeInterval = std::chrono::milliseconds(100);
constexpr Time kPlainInterval = std::chrono::seconds(10);  // between lines without a terminal
constexpr int64_t kMaxEmptyNamed = 10;

absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path,
                                                     std::vector<std::string>* complaints) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  std::vector<std::string> prompts;
  int64_t number = 0, empty = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (!line.empty()) {
      prompts.push_back(std::move(line));
    } else if (++empty <= kMaxEmptyNamed) {
      complaints->push_back(absl::StrCat(path, ": line ", number, ": empty"));
    }
  }
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no prompts"));
  if (empty > 0) complaints->push_back(absl::StrCat(path, ": ", empty, " lines skipped"));
  return prompts;
}

WorkloadOptions MakeWorkload(const Options& options, const Inputs& inputs, const Target& target) {
  constexpr int32_t kInput = 256, kOutput = 128;
  return {.input = options.input.value_or(Lengths::Constant(kInput)),
          .output = options.output.value_or(Lengths::Constant(kOutput)),
          .prompts = inputs.prompts,
          .trace = inputs.trace ? &*inputs.trace : nullptr,
          .length_scale = options.length_scale,
          .prefix_groups = options.prefix_groups,
          .prefix_tokens = options.prefix_tokens,
          .turns = options.turns,
          .sessions = options.sessions,
          .cancel_share = options.cancel_share,
          .mix = options.mix,
          .temperature = options.temperature,
          .ignore_eos = !options.respect_eos,
          .seed = options.seed,
          .vocab_size = target.model.vocab_size(),
          .max_positions =
              std::min<int64_t>(target.model.max_positions(), target.model.cache_tokens())};
}

Schedule MakeSchedule(const Options& options, const Inputs& inputs, std::optional<double> rate) {
  Schedule schedule{.users = options.users,
                    .ramp = options.ramp,
                    .trace_speed = options.trace_speed,
                    .think = options.think,
                    .max_requests = options.requests,
                    .duration = options.duration,
                    .drain = options.drain,
                    .limit = options.timeout,
                    .max_concurrency = options.max_concurrency,
                    .warm_up = options.warm_up,
                    .cool_down = options.cool_down};
  if (options.users == 0 && (rate || options.rate > 0)) {
    schedule.arrivals = Arrivals::Options{.rate = rate.value_or(options.rate),
                                          .burstiness = options.burstiness,
                                          .end_rate = options.end_rate,
                                          .ramp = options.ramp,
                                          .exponential = options.ramp_strategy == "exponential",
                                          .seed = options.seed};
  } else if (options.users == 0) {
    schedule.trace = &*inputs.trace;
  }
  return schedule;
}

// Redraws its lines on a terminal; elsewhere prints a line now and then.
class LivePrinter {
 public:
  LivePrinter(const LiveView::Bounds& bounds, const Scraper* scraper)
      : view_(bounds), scraper_(scraper), terminal_(isatty(STDERR_FILENO) != 0) {}

  void operator()(const Progress& progress) {
    const std::string text =
        view_.Text(progress, scraper_ != nullptr ? scraper_->latest() : std::nullopt);
    if (terminal_) {
      if (lines_ > 0) std::fprintf(stderr, "\033[%dF\033[J", static_cast<int>(lines_));
      lines_ = std::count(text.begin(), text.end(), '\n');
      std::fputs(text.c_str(), stderr);
    } else if (progress.now >= next_) {
      next_ = progress.now + kPlainInterval;
      std::string line = text;
      std::replace(line.begin(), line.end() - 1, '\n', ';');
      std::fputs(line.c_str(), stderr);
    }
  }

 private:
  LiveView view_;
  const Scraper* const scraper_;
  const bool terminal_;
  std::ptrdiff_t lines_ = 0;
  Time next_ = kPlainInterval;
};

}  // namespace

absl::StatusOr<Inputs> ReadInputs(const Options& options) {
  Inputs inputs;
  if (!options.trace.empty()) {
    ASSIGN_OR_RETURN(auto trace, ReadTrace(options.trace));
    inputs.trace = std::move(trace);
    if (options.trace_shuffle) ShuffleTrace(options.seed, &*inputs.trace);
    inputs.complaints = inputs.trace->complaints;
    if (inputs.trace->skipped > 0) {
      inputs.complaints.push_back(absl::StrCat(options.trace, ": ", inputs.trace->skipped,
                                               " lines skipped, ", inputs.trace->rows.size(),
                                               " requests read"));
    }
  }
  if (!options.prompts.empty()) {
    ASSIGN_OR_RETURN(auto prompts, ReadPrompts(options.prompts, &inputs.complaints));
    inputs.prompts = std::move(prompts);
  }
  return inputs;
}

absl::StatusOr<RunResult> LoadServer(const Options& options, const Inputs& inputs,
                                     const Target& target, std::optional<double> rate,
                                     const std::atomic<bool>& interrupted) {
  SteadyClock clock;
  Workload workload(MakeWorkload(options, inputs, target));
  GrpcTransport transport(target.address, options.connections, &clock, target.access);
  std::unique_ptr<Scraper> scraper;
  if (!target.metrics.empty()) {
    ASSIGN_OR_RETURN(auto started,
                     Scraper::Start(target.metrics, options.access, kScrapeInterval, &clock));
    scraper = std::move(started);
  }
  const Schedule schedule = MakeSchedule(options, inputs, rate);
  Run run(schedule, &workload, &transport, &clock);
  LiveView::Bounds bounds{.label = target.label, .requests = schedule.max_requests};
  bounds.duration = schedule.duration;
  if (schedule.trace != nullptr && bounds.requests == 0) {
    bounds.requests = std::ssize(schedule.trace->rows);
  }
  LivePrinter printer(bounds, scraper.get());
  Run::Watch watch;
  if (!options.quiet) watch = [&printer](const Progress& progress) { printer(progress); };
  RunResult result = run.Go(interrupted, options.save_detailed, watch);
  result.cut = workload.cut();
  if (scraper != nullptr) {
    result.scrapes = scraper->Stop(&result.scrapes_failed);
    for (Scrape& scrape : result.scrapes) scrape.at -= result.zero;
  }
  return result;
}

nlohmann::json DescribeTraffic(const Options& options, std::optional<double> rate) {
  const double asked = rate.value_or(options.rate);
  nlohmann::json traffic = {
      {"request_rate", "inf"}, {"burstiness", options.burstiness}, {"max_concurrency", nullptr}};
  if (asked > 0 && !std::isinf(asked)) traffic["request_rate"] = asked;
  if (std::isinf(options.burstiness)) traffic["burstiness"] = "inf";
  if (options.users > 0) {
    traffic["max_concurrency"] = options.users;
  } else if (options.max_concurrency > 0) {
    traffic["max_concurrency"] = options.max_concurrency;
  }
  if (options.end_rate) {
    traffic["ramp_up_strategy"] = options.ramp_strategy;
    traffic["ramp_up_start_rps"] = options.rate;
    traffic["ramp_up_end_rps"] = *options.end_rate;
  }
  if (!options.trace.empty()) {
    traffic["trace"] = options.trace.substr(options.trace.rfind('/') + 1);
    traffic["trace_speed"] = options.trace_speed;
    traffic["trace_shuffle"] = options.trace_shuffle;
    traffic["length_scale"] = options.length_scale;
  }
  traffic["seed"] = options.seed;
  return traffic;
}

nlohmann::json DescribeServer(const Target& target) {
  const v1::Model& model = target.model;
  return {{"address", target.address},
          {"model", model.name()},
          {"device", model.device()},
          {"dtype", model.dtype()},
          {"cache_dtype", model.cache_dtype()},
          {"cache_bytes", model.cache_bytes()},
          {"cache_tokens", model.cache_tokens()},
          {"bytes_per_token", model.plan().bytes_per_token()},
          {"plain_bytes_per_token", model.plan().plain_bytes_per_token()}};
}

}  // namespace strata::load
