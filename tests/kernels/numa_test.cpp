#include "kernels/cpu/numa.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::kernels::numa_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NumaTest, ReadsTheSystemsListsOfNodes) {
  EXPECT_THAT(ParseNodeList("0"), ElementsAre(0));
  EXPECT_THAT(ParseNodeList("0-1\n"), ElementsAre(0, 1));
  EXPECT_THAT(ParseNodeList("0-2,5,1022-1023"), ElementsAre(0, 1, 2, 5, 1022, 1023));
}

TEST(NumaTest, FindsNoNodesInAnythingElse) {
  for (const char* text : {"", ",", "0,", "-", "1-", "-1", "0-1-2", "a", "1024", "0-4000000000"}) {
    EXPECT_THAT(ParseNodeList(text), IsEmpty()) << text;
  }
}

}  // namespace
}  // namespace strata::kernels::numa_test
