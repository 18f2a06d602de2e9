// Choices behind the CPU backend: untaken calls, rows of their tokens, any number of threads.
#include <span>
#include <vector>

#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::host_choices_test {
namespace {

constexpr int64_t kVocab = 5000;
constexpr int64_t kRows = 40;

// A choice of each kind in turn, from every row.
std::vector<TokenChoice> Choices(std::span<const int32_t> allowed) {
  std::vector<TokenChoice> choices;
  for (int64_t row = 0; row < kRows; ++row) {
    TokenChoice choice = {.row = row, .uniform = static_cast<double>(row) / kRows};
    if (row % 4 == 1) choice.temperature = 0;
    if (row % 4 == 2) choice.allowed = allowed;
    if (row % 4 == 3) choice.num_logprobs = 2;
    choices.push_back(choice);
  }
  return choices;
}

TEST(HostChoicesTest, TheNumberOfThreadsDoesNotMatter) {
  std::vector<float> logits = Random(1).Normals(kRows * kVocab, 3);
  const ConstRows rows = {logits.data(), kRows, kVocab, kVocab};
  const std::vector<int32_t> allowed = {17, 4999, 3};
  const std::vector<TokenChoice> choices = Choices(allowed);
  std::vector<ChosenToken> expected(choices.size());
  for (const int threads : {1, 2, 5, 12}) {
    SCOPED_TRACE(threads);
    const std::unique_ptr<Backend> backend = MakeCpu(threads);
    std::vector<ChosenToken> chosen(choices.size());
    backend->ChooseTokens(rows, choices);
    ASSERT_TRUE(backend->TakeChosen(chosen).ok());
    if (threads == 1) expected = chosen;
    for (size_t i = 0; i < chosen.size(); ++i) {
      EXPECT_EQ(chosen[i].token, expected[i].token);
      if (choices[i].num_logprobs < 0) continue;
      EXPECT_EQ(chosen[i].num_top, 2);
      EXPECT_EQ(chosen[i].logprob, expected[i].logprob);
      EXPECT_EQ(chosen[i].top_ids[1], expected[i].top_ids[1]);
    }
  }
}

TEST(HostChoicesTest, AnIdBelowZeroIsATokenOfTheLastCall) {
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  constexpr int64_t kIds = 8;
  std::vector<float> table(kIds);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i);
  const HostRows rows = {.type = ElementType::kF32,
                         .data = reinterpret_cast<const std::byte*>(table.data()),
                         .num_rows = kIds,
                         .num_cols = 1};
  const auto matrix = backend->Pack({&rows, 1}, MatrixFormat::kF32).value();
  const std::vector<TokenChoice> greedy = {{.row = 0, .temperature = 0},
                                           {.row = 1, .temperature = 0}};
  std::vector<float> logits(4 * kIds);
  for (const size_t best : {3, 8 + 5, 16 + 1, 24 + 6}) logits[best] = 1;
  backend->ChooseTokens({logits.data(), 2, kIds, kIds}, greedy);
  backend->ChooseTokens({logits.data() + 2 * kIds, 2, kIds, kIds}, greedy);
  std::vector<float> out(3);
  const std::vector<int32_t> ids = {~1, 2, ~0};
  backend->Embed(*matrix, ids, {out.data(), 3, 1, 1});
  EXPECT_EQ(out, (std::vector<float>{6, 2, 1}));
  std::vector<ChosenToken> chosen(2);
  ASSERT_TRUE(backend->TakeChosen(chosen).ok());  // the oldest call first
  EXPECT_EQ(chosen[0].token, 3);
  EXPECT_EQ(chosen[1].token, 5);
  ASSERT_TRUE(backend->TakeChosen(chosen).ok());
  EXPECT_EQ(chosen[0].token, 1);
  EXPECT_EQ(chosen[1].token, 6);
}

}  // namespace
}  // namespace strata::kernels::host_choices_test
