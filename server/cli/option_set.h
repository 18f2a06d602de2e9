#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/types.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace strata::server {

// Declares the options of one subcommand, each with its target; the target's value is the default
// that --help shows. A value that cannot be read makes CLI11 throw from its parse, "--flag: 'value'
// is not ...". The targets must outlive the parse.
class OptionSet {
 public:
  explicit OptionSet(CLI::App* app) : OptionSet(app, /*shown=*/true) {}
  // Declares options of the same subcommand for developers: --help-all shows them, --help does not.
  OptionSet ForDevelopers() const { return OptionSet(app_, /*shown=*/false); }

  // Options of a deployment: --cache-bytes may also come as STRATA_CACHE_BYTES.
  void Text(const std::string& flag, const std::string& type, std::string* value,
            const std::string& help);
  void Choice(const std::string& flag, const std::vector<std::string>& choices, std::string* value,
              const std::string& help);
  // The same, with a value for each name. The default is the first name of `*value`.
  template <class T>
  void Choice(const std::string& flag, const std::vector<std::pair<std::string, T>>& choices,
              T* value, const std::string& help) {
    std::vector<std::string> names;
    size_t fallback = choices.size();
    for (const auto& [name, meaning] : choices) {
      if (meaning == *value) fallback = std::min(fallback, names.size());
      names.push_back(name);
    }
    Pick(flag, names, names[fallback], help,
         [choices, value](size_t place) { *value = choices[place].second; });
  }
  void OnOff(const std::string& flag, bool* value, const std::string& help) {
    Choice<bool>(flag, {{"on", true}, {"off", false}}, value, help);
  }
  void Count(const std::string& flag, int32_t min, int32_t* value, const std::string& help);
  void Share(const std::string& flag, double* value, const std::string& help);  // 0..1; 0: none
  void Bytes(const std::string& flag, size_t* value, const std::string& help, size_t min = 0,
             size_t max = std::numeric_limits<size_t>::max());
  void ListenAddress(const std::string& flag, std::string* value, const std::string& help);
  void OptionalListenAddress(const std::string& flag, std::string* value,
                             const std::string& help);  // may be empty
  void Duration(const std::string& flag, std::chrono::milliseconds* value, const std::string& help,
                std::chrono::milliseconds min = std::chrono::milliseconds(0));

  // Comma-separated texts, less the blanks around them; the flag may be repeated. No text twice.
  void List(const std::string& flag, const std::string& type, std::vector<std::string>* values,
            absl::Status (*check)(const std::string& text), const std::string& help);

  // Options of one call: without a variable. `take` gets the value if the option is given. T:
  // std::string, int32_t, uint64_t, float, std::chrono::milliseconds.
  template <class T>
  void Parameter(const std::string& flag, std::function<void(T)> take, const std::string& help);
  template <class T>
  void Parameter(const std::string& flag, std::optional<T>* value, const std::string& help) {
    Parameter<T>(
        flag, [value](T given) { *value = std::move(given); }, help);
  }
  // `set`: a function of the message that sets a field.
  template <class Message, class T>
  void Parameter(const std::string& flag, Message* message, void (Message::*set)(T),
                 const std::string& help) {
    Parameter<T>(
        flag, [message, set](T given) { (message->*set)(given); }, help);
  }
  // Any number of times, a value each time. T: std::string, int32_t, engine::LogitBias.
  template <class T>
  void Parameters(const std::string& flag, std::function<void(T)> take, const std::string& help);
  void Switch(const std::string& flag, bool* value, const std::string& help);
  void Switch(const std::string& flag, std::function<void()> take, const std::string& help);

 private:
  OptionSet(CLI::App* app, bool shown);
  void Pick(const std::string& flag, const std::vector<std::string>& names,
            const std::string& fallback, const std::string& help,
            std::function<void(size_t place)> take);

  using Reader = std::function<absl::Status(const std::string& text)>;
  CLI::Option* Add(const std::string& flag, const std::string& type, const std::string& help,
                   Reader read);
  CLI::Option* AddDeployed(const std::string& flag, const std::string& type,
                           const std::string& fallback, const std::string& help, Reader read);

  CLI::App* const app_;
  const bool shown_;
};

// Has --help of every subcommand show the options for developers as well.
void ShowAll(CLI::App* app);

}  // namespace strata::server
