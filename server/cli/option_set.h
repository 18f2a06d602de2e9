#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/types.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace strata::server {

// Declares the options of one subcommand, each with what it writes to; what stands there is the
// default that --help shows. A value that cannot be read makes CLI11 throw from its parse, "--flag:
// 'value' is not ...". The targets must outlive the parse.
class OptionSet {
 public:
  explicit OptionSet(CLI::App* app);

  // Options of a deployment: --cache-bytes may also come as STRATA_CACHE_BYTES.
  void Text(const std::string& flag, const std::string& type, std::string* value,
            const std::string& help);
  void Choice(const std::string& flag, const std::vector<std::string>& choices, std::string* value,
              const std::string& help);
  void Count(const std::string& flag, int32_t min, int32_t* value, const std::string& help);
  void Share(const std::string& flag, double* value, const std::string& help);  // 0..1; 0: none
  void Bytes(const std::string& flag, size_t* value, const std::string& help, size_t min = 0,
             size_t max = std::numeric_limits<size_t>::max());
  void ListenAddress(const std::string& flag, std::string* value, const std::string& help);
  void OptionalListenAddress(const std::string& flag, std::string* value,
                             const std::string& help);  // may be empty
  void Duration(const std::string& flag, std::chrono::milliseconds* value, const std::string& help,
                std::chrono::milliseconds min = std::chrono::milliseconds(0));

  // Texts separated by commas, blanks around them aside; the flag may be repeated. No text twice.
  void List(const std::string& flag, const std::string& type, std::vector<std::string>* values,
            absl::Status (*check)(const std::string& text), const std::string& help);

  // Options of one call: without a variable, and absent unless given.
  void Parameter(const std::string& flag, std::optional<std::string>* value,
                 const std::string& help);
  void Parameter(const std::string& flag, std::optional<int32_t>* value, const std::string& help);
  void Parameter(const std::string& flag, std::optional<uint64_t>* value, const std::string& help);
  void Parameter(const std::string& flag, std::optional<float>* value, const std::string& help);
  void Parameter(const std::string& flag, std::optional<std::chrono::milliseconds>* value,
                 const std::string& help);
  // As often as wanted, a value each time.
  void Parameter(const std::string& flag, std::vector<std::string>* values,
                 const std::string& help);
  void Parameter(const std::string& flag, std::vector<int32_t>* values, const std::string& help);
  void Parameter(const std::string& flag, std::vector<engine::LogitBias>* values,
                 const std::string& help);
  void Switch(const std::string& flag, bool* value, const std::string& help);

 private:
  using Reader = std::function<absl::Status(const std::string& text)>;
  CLI::Option* Add(const std::string& flag, const std::string& type, const std::string& help,
                   Reader read);
  CLI::Option* AddDeployed(const std::string& flag, const std::string& type,
                           const std::string& fallback, const std::string& help, Reader read);

  CLI::App* const app_;
};

}  // namespace strata::server
