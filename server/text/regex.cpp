#include "server/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <utility>

#include "kvcache/base/errors.h"
#include "server/base/string_util.h"
#include "server/base/unicode.h"
#include "server/text/regex_syntax.h"

namespace strata::server {
namespace {

constexpr size_t kMaxPatternBytes = size_t{64} << 10;
constexpr uint32_t kMaxNesting = 100;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

// PCRE2 counts backtracking for each possible start of a match. A long run of one character costs
// its length at each start, so the limit grows with the text.
constexpr size_t kMatchLimit = 1'000'000;
constexpr size_t kMatchLimitPerByte = 16;

// The limit above bounds one start, not all: a pattern may still be quadratic. So a search advances
// in windows of starts, and reads a clock between them.
constexpr size_t kWindowBytes = 256;
constexpr std::chrono::seconds kMaxSearchTime{10};

template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};

std::string ErrorMessage(int code) {
  std::array<PCRE2_UCHAR, 256> buffer = {};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

using CompileContext = std::unique_ptr<pcre2_compile_context, FreeWith<pcre2_compile_context_free>>;

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, FreeWith<pcre2_code_free>> compiled;
};

struct RegexMatcher::Buffers {
  std::unique_ptr<pcre2_match_data, FreeWith<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_match_context, FreeWith<pcre2_match_context_free>> context;
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        Concat("a pattern of ", pattern.size(), " bytes is longer than ", kMaxPatternBytes));
  }
  ASSIGN_OR_RETURN(const std::string translated, TranslateOniguruma(pattern));

  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  // Oniguruma's ^ and $ match at lines.
  constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;
  int error = 0;
  size_t offset = 0;
  auto code = std::make_unique<Code>();
  code->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                     translated.size(), kOptions, &error, &offset, context.get()));
  if (code->compiled == nullptr) {
    return absl::InvalidArgumentError(
        Concat("pattern ", translated, ": ", ErrorMessage(error), " at offset ", offset));
  }
  // Without JIT, or memory for it, the interpreter gives the same matches more slowly.
  pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

RegexMatcher::RegexMatcher(const Regex& regex)
    : regex_(regex), buffers_(std::make_unique<Buffers>()) {
  buffers_->data.reset(pcre2_match_data_create_from_pattern(regex.code_->compiled.get(), nullptr));
  buffers_->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_heap_limit(buffers_->context.get(), kHeapLimitKib);
}

RegexMatcher::~RegexMatcher() = default;

absl::Status RegexMatcher::FindAll(std::string_view text, std::vector<TextRange>* matches) {
  matches->clear();
  const pcre2_code* code = regex_.code_->compiled.get();
  pcre2_match_data* data = buffers_->data.get();
  pcre2_match_context* context = buffers_->context.get();
  const size_t match_limit = kMatchLimit + kMatchLimitPerByte * text.size();
  pcre2_set_match_limit(context, static_cast<uint32_t>(std::min<size_t>(match_limit, UINT32_MAX)));
  const auto deadline = std::chrono::steady_clock::now() + kMaxSearchTime;
  const auto give_up = [&](std::string_view why, size_t offset) {
    return absl::InvalidArgumentError(
        Concat("the pre-tokenizer's pattern gave up at byte ", offset, ": ", why));
  };

  size_t offset = 0;
  while (offset <= text.size()) {
    if (std::chrono::steady_clock::now() > deadline) return give_up("out of time", offset);
    pcre2_set_offset_limit(context, offset + kWindowBytes);
    const auto match = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), offset,
                         options | PCRE2_NO_UTF_CHECK, data, context);
    };
    int rc = match(0);
    // JIT code keeps its state on a small stack, the interpreter on the heap.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = match(PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMATCH) {
      offset += kWindowBytes;
      while (offset < text.size() && (static_cast<unsigned char>(text[offset]) & 0xC0) == 0x80) {
        ++offset;  // a window starts at a character
      }
      continue;
    }
    if (rc < 0) return give_up(ErrorMessage(rc), offset);

    const size_t* bounds = pcre2_get_ovector_pointer(data);
    const TextRange found{bounds[0], bounds[1]};
    const size_t last_end = matches->empty() ? 0 : matches->back().end;
    if (found.end < found.begin || found.begin < last_end) {
      return give_up("a match is out of order", offset);
    }
    const bool touches_last = !matches->empty() && found.end == last_end;
    if (found.size() == 0 && touches_last) {
      offset = found.end + (found.end < text.size() ? ReadUtf8(text, found.end).size : 1);
      continue;
    }
    matches->push_back(found);
    offset = found.end;
  }
  return absl::OkStatus();
}

}  // namespace strata::server
