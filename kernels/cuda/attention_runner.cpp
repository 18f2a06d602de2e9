#include "kernels/cuda/attention_runner.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace strata::kernels::cuda {
namespace {

static_assert(kSpan == Backend::kAttentionSpan);

// Blocks of threads for each multiprocessor, so that the last of them end at about the same time.
constexpr int32_t kBlocksEach = 8;

// Contexts are not cut if their states would take more: such contexts are so long, or so many, that
// all multiprocessors have work.
constexpr size_t kMostStateBytes = size_t{256} << 20;

bool Same(const SequenceRows& a, const SequenceRows& b) {
  return a.first_row == b.first_row && a.num_rows == b.num_rows &&
         a.first_position == b.first_position && a.block_tables == b.block_tables &&
         a.score_table == b.score_table;
}

// Spans of a context, or up to a quarter more: few different numbers, so that a context that grows
// changes the cut of a step's work, and with it the graph, a few times only.
int32_t RoundedSpans(int32_t spans) {
  const auto step =
      std::max(1, static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(spans))) / 4);
  return (spans + step - 1) / step * step;
}

AttentionArgs ArgsFor(const PagedArena& cache, int32_t head_dim) {
  AttentionArgs args;
  args.arena = cache.arena;
  args.place_bytes = cache.place_bytes;
  args.block_tokens = cache.block_tokens;
  args.head_dim = head_dim;
  args.scores = cache.scores;
  args.score_slots = cache.score_slots;
  args.key_format = cache.key_format;
  args.value_format = cache.value_format;
  args.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return args;
}

HeadEntry EntryOf(const HeadAttention& head) {
  return {.query = head.query,
          .output = head.output,
          .lse = head.lse,
          .reused_lse = head.reused_lse,
          .query_stride = head.query_stride,
          .output_stride = head.output_stride,
          .lse_stride = head.lse_stride,
          .score_slot = head.score_slot};
}

}  // namespace

std::string WhyNoTensorKernel(const PagedArena& cache, int32_t head_dim) {
  constexpr const char* kSlow =
      "attention runs without the tensor cores, ten to twenty times slower: ";
  if (cache.key_format != cache.value_format) {
    return absl::StrCat(kSlow, "keys are kept in ", std::string(FormatName(cache.key_format)),
                        " and values in ", std::string(FormatName(cache.value_format)),
                        ", which must be one type");
  }
  if (cache.key_format == PlaneFormat::kF32) {
    return absl::StrCat(kSlow, "the cache is in f32, which must have 16 or 8 bits");
  }
  if (!IsTensorHeadDim(head_dim)) {
    return absl::StrCat(kSlow, "heads have ", head_dim, " dimensions, not 32, 64 or 128");
  }
  const size_t plane =
      cache.TokenBytes(PlaneKind::kKey, head_dim) * static_cast<size_t>(cache.block_tokens);
  if (plane % 16 == 0 && cache.place_bytes % 16 == 0) return "";
  return absl::StrCat(kSlow, "a plane of ", cache.block_tokens, " tokens takes ", plane,
                      " bytes, no multiple of 16; --block-tokens 32 is");
}

void AttentionRunner::Run(Stream& stream, StepInputs& inputs, const PagedArena& cache,
                          std::span<const SequenceRows> sequences,
                          std::span<const PlaneGroup> groups) {
  if (groups.empty() || sequences.empty()) return;
  PutSequences(inputs, cache, sequences);
  // Groups go into launches of at most kMaxHeads heads; a larger group is cut.
  AttentionArgs args = ArgsFor(cache, groups[0].head_dim);
  args.tables = sent_.tables;
  const auto flush = [&] {
    if (args.num_heads > 0) Launch(stream, args);
    args.num_heads = args.num_groups = 0;
  };
  const bool keeps = KeepsSharedPlanes(cache, groups);
  for (const PlaneGroup& group : groups) {
    const auto end = static_cast<int32_t>(group.heads.size());
    for (int32_t begin = 0; begin < end;) {
      if (args.num_heads == kMaxHeads) flush();
      const int32_t room = kMaxHeads - args.num_heads;
      // A group that fits into a launch of its own is not cut.
      if (end - begin > room && end - begin <= kMaxHeads) {
        flush();
        continue;
      }
      const int32_t count = std::min(room, end - begin);
      args.groups[args.num_groups++] = {.keys = group.keys,
                                        .values = group.values,
                                        .first_head = args.num_heads,
                                        .num_heads = count,
                                        .keep_keys = keeps && group.keys_again,
                                        .keep_values = keeps && group.values_again};
      for (int32_t i = 0; i < count; ++i) {
        args.heads[args.num_heads++] = EntryOf(group.heads[static_cast<size_t>(begin + i)]);
      }
      begin += count;
    }
  }
  flush();
}

// All or none: if the planes do not all fit, each is evicted before it is read again.
bool AttentionRunner::KeepsSharedPlanes(const PagedArena& cache,
                                        std::span<const PlaneGroup> groups) const {
  size_t token_bytes = 0;
  for (const PlaneGroup& group : groups) {
    if (group.keys_again) token_bytes += cache.TokenBytes(PlaneKind::kKey, group.head_dim);
    if (group.values_again) token_bytes += cache.TokenBytes(PlaneKind::kValue, group.head_dim);
  }
  return token_bytes * sent_.num_positions <= kept_bytes_;
}

size_t AttentionRunner::MostStateBytes(const StepLimits& limits) {
  const int64_t states = limits.sequences * SpansOf(static_cast<int32_t>(limits.context)) *
                         std::min<int64_t>(limits.heads, kMaxHeads);
  const auto floats = static_cast<size_t>(states * StateFloats(limits.head_dim));
  return std::min(std::bit_ceil(floats) * sizeof(float), kMostStateBytes);
}

void AttentionRunner::Launch(Stream& stream, AttentionArgs& args) {
  int32_t most_heads = 0;  // of a group
  for (int32_t i = 0; i < args.num_groups; ++i) {
    most_heads = std::max(most_heads, args.groups[i].num_heads);
  }
  if (!HasTensorKernel(args)) {
    args.sequences = sent_.entries;
    args.num_sequences = static_cast<int32_t>(sent_.num_single + sent_.num_chunks);
    AttendGenerally(stream, args, sent_.most_rows);
    return;
  }
  if (sent_.num_single > 0) LaunchSingleRows(stream, args, most_heads);
  if (sent_.num_chunks > 0) {
    args.sequences = sent_.entries + sent_.num_single;
    args.num_sequences = static_cast<int32_t>(sent_.num_chunks);
    const auto queries = static_cast<int32_t>(sent_.most_rows * most_heads);
    AttendOnTensorCores(stream, args,
                        {.shares_queries = false,
                         .query_tiles = (queries + kTileQueries - 1) / kTileQueries,
                         .runs = 1,
                         .spans_per_run = INT32_MAX});
  }
}

void AttentionRunner::LaunchSingleRows(Stream& stream, AttentionArgs args, int32_t most_heads) {
  args.sequences = sent_.entries;
  args.num_sequences = static_cast<int32_t>(sent_.num_single);
  TensorLaunch launch = {.shares_queries = true,
                         .query_tiles = (most_heads + kSharedQueries - 1) / kSharedQueries};
  const int32_t spans = RoundedSpans(SpansOf(sent_.longest_single));
  const int32_t units = launch.query_tiles * args.num_groups * args.num_sequences;
  int32_t runs = std::clamp((kBlocksEach * multiprocessors_ + units - 1) / units, 1, spans);
  const auto floats =
      static_cast<size_t>(sent_.num_states * args.num_heads * StateFloats(args.head_dim));
  if (std::bit_ceil(floats) * sizeof(float) > kMostStateBytes) runs = 1;
  launch.spans_per_run = (spans + runs - 1) / runs;
  launch.runs = (spans + launch.spans_per_run - 1) / launch.spans_per_run;
  if (launch.runs > 1) {
    args.states = states_.Reserve(stream, std::bit_ceil(floats));  // contexts grow
  }
  AttendOnTensorCores(stream, args, launch);
  if (launch.runs > 1) MergeSpans(stream, args, /*most_rows=*/1);
}

void AttentionRunner::Probabilities(Stream& stream, StepInputs& inputs, const PagedArena& cache,
                                    const SequenceRows& sequence, const PlaneGroup& group,
                                    const HeadAttention& head, float* out) {
  SequenceRows row = sequence;
  row.num_rows = 1;
  row.score_table = nullptr;
  PutSequences(inputs, cache, {&row, 1});
  AttentionArgs args = ArgsFor(cache, group.head_dim);
  args.sequences = sent_.entries;
  args.tables = sent_.tables;
  args.num_sequences = args.num_heads = args.num_groups = 1;
  args.heads[0] = EntryOf(head);
  args.groups[0] = {.keys = group.keys, .values = group.values, .num_heads = 1};
  FindProbabilities(stream, args, static_cast<int32_t>(row.first_position + 1), out);
}

void AttentionRunner::PutSequences(StepInputs& inputs, const PagedArena& cache,
                                   std::span<const SequenceRows> sequences) {
  if (known_generation_ == inputs.generation() && known_block_tokens_ == cache.block_tokens &&
      std::equal(sequences.begin(), sequences.end(), known_.begin(), known_.end(), Same)) {
    return;
  }
  entries_.clear();
  tables_.clear();
  sent_ = {};
  for (const bool single : {true, false}) {
    for (const SequenceRows& sequence : sequences) {
      if (sequence.num_rows == 0 || (sequence.num_rows == 1) != single) continue;
      const auto context = static_cast<int32_t>(sequence.first_position + sequence.num_rows);
      const int32_t blocks = (context + cache.block_tokens - 1) / cache.block_tokens;
      SequenceEntry entry = {.first_row = sequence.first_row,
                             .num_rows = static_cast<int32_t>(sequence.num_rows),
                             .first_position = static_cast<int32_t>(sequence.first_position),
                             .table = std::ssize(tables_),
                             .table_blocks = blocks,
                             .first_state = sent_.num_states};
      for (int32_t g = 0; g < cache.block_groups; ++g) {
        const int32_t* const table = sequence.block_tables[g];
        tables_.insert(tables_.end(), table, table + blocks);
      }
      if (sequence.score_table != nullptr) {
        entry.score_table = std::ssize(tables_);
        tables_.insert(tables_.end(), sequence.score_table, sequence.score_table + blocks);
      }
      entries_.push_back(entry);
      sent_.most_rows = std::max(sent_.most_rows, sequence.num_rows);
      sent_.num_positions += static_cast<size_t>(context);
      if (single) {
        ++sent_.num_single;
        sent_.longest_single = std::max(sent_.longest_single, context);
        sent_.num_states += SpansOf(context);
      } else {
        ++sent_.num_chunks;
      }
    }
  }
  if (sent_.num_chunks == 0) {
    sent_.num_single = GraphRows(sent_.num_single);
    entries_.resize(static_cast<size_t>(sent_.num_single));
  }
  sent_.entries = inputs.Put(StepInputs::kSequences, std::span<const SequenceEntry>(entries_));
  sent_.tables = inputs.Put(StepInputs::kTables, std::span<const int32_t>(tables_));
  known_.assign(sequences.begin(), sequences.end());
  known_generation_ = inputs.generation();
  known_block_tokens_ = cache.block_tokens;
}

}  // namespace strata::kernels::cuda
