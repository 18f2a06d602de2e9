#include "server/cli/option_set.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kvcache/base/errors.h"
#include "server/base/listen_address.h"
#include "server/cli/option_values.h"
#include "server/cli/variables.h"

namespace strata::server {
namespace {

constexpr const char* kHidden = "";  // CLI11 shows no group of this name

absl::Status NotA(const std::string& text, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", what));
}

template <typename T>
absl::Status Store(const absl::StatusOr<T>& parsed, T* value) {
  if (parsed.ok()) *value = *parsed;
  return parsed.status();
}

// Kinds of values of one call: the name that --help shows, and how each is read.
const char* TypeName(const std::string&) { return "TEXT"; }
const char* TypeName(int32_t) { return "COUNT"; }
const char* TypeName(uint64_t) { return "NUMBER"; }
const char* TypeName(float) { return "NUMBER"; }
const char* TypeName(std::chrono::milliseconds) { return "DURATION"; }
const char* TypeName(const engine::LogitBias&) { return "ID=BIAS"; }

absl::Status Read(const std::string& text, std::string* value) {
  *value = text;
  return absl::OkStatus();
}
absl::Status Read(const std::string& text, int32_t* value) {
  const bool ok = absl::SimpleAtoi(text, value);
  return ok ? absl::OkStatus() : NotA(text, "a whole number of 32 bits");
}
absl::Status Read(const std::string& text, uint64_t* value) {
  const bool ok = absl::SimpleAtoi(text, value);
  return ok ? absl::OkStatus() : NotA(text, "a whole number in 0..18446744073709551615");
}
absl::Status Read(const std::string& text, float* value) {
  return absl::SimpleAtof(text, value) ? absl::OkStatus() : NotA(text, "a number");
}
absl::Status Read(const std::string& text, std::chrono::milliseconds* value) {
  return Store(ParseDuration(text), value);
}
absl::Status Read(const std::string& text, engine::LogitBias* value) {
  const size_t sign = text.find('=');
  const bool ok = sign != std::string::npos && absl::SimpleAtoi(text.substr(0, sign), &value->id) &&
                  absl::SimpleAtof(text.substr(sign + 1), &value->bias);
  return ok ? absl::OkStatus() : NotA(text, "ID=BIAS, two numbers");
}

}  // namespace

// The callback makes CLI11 read the variables of a subcommand only when that subcommand is called.
OptionSet::OptionSet(CLI::App* app, bool shown) : app_(app), shown_(shown) {
  app_->parse_complete_callback([] {});
}

CLI::Option* OptionSet::Add(const std::string& flag, const std::string& type,
                            const std::string& help, Reader read) {
  const auto checked = [flag, read = std::move(read)](const std::string& text) {
    const absl::Status status = read(text);
    if (!status.ok()) throw CLI::ValidationError(flag, std::string(status.message()));
  };
  CLI::Option* const option =
      app_->add_option_function<std::string>(flag, checked, help)->type_name(type);
  return shown_ ? option : option->group(kHidden);
}

CLI::Option* OptionSet::AddDeployed(const std::string& flag, const std::string& type,
                                    const std::string& fallback, const std::string& help,
                                    Reader read) {
  return Add(flag, type, help, std::move(read))->envname(VariableOf(flag))->default_str(fallback);
}

void OptionSet::Text(const std::string& flag, const std::string& type, std::string* value,
                     const std::string& help) {
  AddDeployed(flag, type, *value, help, [value](const std::string& text) {
    *value = text;
    return absl::OkStatus();
  });
}

void OptionSet::Pick(const std::string& flag, const std::vector<std::string>& names,
                     const std::string& fallback, const std::string& help,
                     std::function<void(size_t place)> take) {
  const std::string listed = absl::StrJoin(names, "|");
  AddDeployed(flag, listed, fallback, help,
              [names, listed, take = std::move(take)](const std::string& text) {
                const auto found = std::find(names.begin(), names.end(), text);
                if (found == names.end()) return NotA(text, listed.c_str());
                take(static_cast<size_t>(found - names.begin()));
                return absl::OkStatus();
              });
}

void OptionSet::Choice(const std::string& flag, const std::vector<std::string>& choices,
                       std::string* value, const std::string& help) {
  Pick(flag, choices, *value, help, [choices, value](size_t place) { *value = choices[place]; });
}

void OptionSet::Count(const std::string& flag, int32_t min, int32_t* value,
                      const std::string& help) {
  AddDeployed(flag, "COUNT", absl::StrCat(*value), help, [min, value](const std::string& text) {
    if (absl::SimpleAtoi(text, value) && *value >= min) return absl::OkStatus();
    const int32_t max = std::numeric_limits<int32_t>::max();
    return NotA(text, absl::StrCat("a whole number in ", min, "..", max).c_str());
  });
}

void OptionSet::Share(const std::string& flag, double* value, const std::string& help) {
  AddDeployed(flag, "SHARE", absl::StrCat(*value), help, [value](const std::string& text) {
    if (absl::SimpleAtod(text, value) && *value >= 0 && *value <= 1) return absl::OkStatus();
    return NotA(text, "a share, such as 0.9");
  });
}

void OptionSet::Bytes(const std::string& flag, size_t* value, const std::string& help, size_t min,
                      size_t max) {
  AddDeployed(flag, "SIZE", FormatBytes(*value), help, [=](const std::string& text) {
    const absl::Status status = Store(ParseBytes(text), value);
    if (!status.ok() || (*value >= min && *value <= max)) return status;
    return NotA(text, absl::StrCat("in ", FormatBytes(min), "..", FormatBytes(max)).c_str());
  });
}

void OptionSet::ListenAddress(const std::string& flag, std::string* value,
                              const std::string& help) {
  AddDeployed(flag, "HOST:PORT", *value, help, [value](const std::string& text) {
    *value = text;
    return server::ListenAddress::Parse(text).status();
  });
}

void OptionSet::OptionalListenAddress(const std::string& flag, std::string* value,
                                      const std::string& help) {
  AddDeployed(flag, "HOST:PORT", *value, help, [value](const std::string& text) {
    *value = text;
    return text.empty() ? absl::OkStatus() : server::ListenAddress::Parse(text).status();
  });
}

void OptionSet::Duration(const std::string& flag, std::chrono::milliseconds* value,
                         const std::string& help, std::chrono::milliseconds min) {
  AddDeployed(flag, "DURATION", FormatDuration(*value), help, [=](const std::string& text) {
    const absl::Status status = Store(ParseDuration(text), value);
    if (!status.ok() || *value >= min) return status;
    return NotA(text, absl::StrCat("at least ", FormatDuration(min)).c_str());
  });
}

void OptionSet::List(const std::string& flag, const std::string& type,
                     std::vector<std::string>* values,
                     absl::Status (*check)(const std::string& text), const std::string& help) {
  AddDeployed(flag, type, "", help, [values, check](const std::string& text) {
    if (text.empty()) return absl::OkStatus();
    for (const absl::string_view part : absl::StrSplit(text, ',')) {
      std::string value(absl::StripAsciiWhitespace(part));
      RETURN_IF_ERROR(check(value));
      if (std::ranges::find(*values, value) != values->end()) {
        return absl::InvalidArgumentError(absl::StrCat("'", value, "' is given twice"));
      }
      values->push_back(std::move(value));
    }
    return absl::OkStatus();
  })->trigger_on_parse();
}

template <class T>
void OptionSet::Parameter(const std::string& flag, std::function<void(T)> take,
                          const std::string& help) {
  Add(flag, TypeName(T()), help, [take = std::move(take)](const std::string& text) {
    T value{};
    RETURN_IF_ERROR(Read(text, &value));
    take(std::move(value));
    return absl::OkStatus();
  });
}

template <class T>
void OptionSet::Parameters(const std::string& flag, std::function<void(T)> take,
                           const std::string& help) {
  // A number of a list is no count.
  const char* const type = std::is_same_v<T, int32_t> ? "NUMBER" : TypeName(T());
  Add(flag, type, help, [take = std::move(take)](const std::string& text) {
    T value{};
    RETURN_IF_ERROR(Read(text, &value));
    take(std::move(value));
    return absl::OkStatus();
  })->trigger_on_parse();
}

template void OptionSet::Parameter(const std::string&, std::function<void(std::string)>,
                                   const std::string&);
template void OptionSet::Parameter(const std::string&, std::function<void(int32_t)>,
                                   const std::string&);
template void OptionSet::Parameter(const std::string&, std::function<void(uint64_t)>,
                                   const std::string&);
template void OptionSet::Parameter(const std::string&, std::function<void(float)>,
                                   const std::string&);
template void OptionSet::Parameter(const std::string&,
                                   std::function<void(std::chrono::milliseconds)>,
                                   const std::string&);
template void OptionSet::Parameters(const std::string&, std::function<void(std::string)>,
                                    const std::string&);
template void OptionSet::Parameters(const std::string&, std::function<void(int32_t)>,
                                    const std::string&);
template void OptionSet::Parameters(const std::string&, std::function<void(engine::LogitBias)>,
                                    const std::string&);

void OptionSet::Switch(const std::string& flag, bool* value, const std::string& help) {
  app_->add_flag(flag, *value, help);
}

void OptionSet::Switch(const std::string& flag, std::function<void()> take,
                       const std::string& help) {
  app_->add_flag_callback(flag, std::move(take), help);
}

void ShowAll(CLI::App* app) {
  for (CLI::App* const command : app->get_subcommands(/*filter=*/{})) {
    for (CLI::Option* const option : command->get_options()) {
      if (option->get_group() == kHidden) option->group("For developers");
    }
  }
}

}  // namespace strata::server
