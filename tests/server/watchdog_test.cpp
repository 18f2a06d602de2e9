#include "server/telemetry/watchdog.h"

#include "gtest/gtest.h"

namespace strata::server::watchdog_test {
namespace {

using std::chrono::seconds;

class StallDetectorTest : public ::testing::Test {
 protected:
  bool LookAfter(seconds passed) {
    now_ += passed;
    return detector_.Look(load_, now_);
  }

  StallDetector detector_{seconds(60)};
  engine::Engine::Load load_;
  StallDetector::Time now_ = StallDetector::Time() + seconds(1000);
};

TEST_F(StallDetectorTest, IdleIsNoStall) {
  EXPECT_FALSE(LookAfter(seconds(1)));
  EXPECT_FALSE(LookAfter(seconds(600)));
  load_.waiting = 1;  // work that has just come
  EXPECT_FALSE(LookAfter(seconds(1)));
}

TEST_F(StallDetectorTest, StepsAreProgress) {
  load_.running = 2;
  for (int i = 0; i < 5; ++i) {
    ++load_.steps;
    EXPECT_FALSE(LookAfter(seconds(59)));
  }
}

TEST_F(StallDetectorTest, PendingWorkWithoutStepsStallsAndStepsEndIt) {
  load_ = {.running = 1, .steps = 6, .stepping = true, .step_began = now_};
  EXPECT_FALSE(LookAfter(seconds(0)));
  EXPECT_FALSE(LookAfter(seconds(59)));
  EXPECT_TRUE(LookAfter(seconds(1)));
  EXPECT_EQ(DescribeStall(load_, now_), "step 7 has run for 60.0 s (1 sequences run, 0 wait)");
  ++load_.steps;
  EXPECT_FALSE(LookAfter(seconds(1)));
  EXPECT_FALSE(LookAfter(seconds(59)));
  EXPECT_TRUE(LookAfter(seconds(1)));
  load_ = {.steps = 7, .step_began = {}};  // the request went away
  EXPECT_FALSE(LookAfter(seconds(1)));
}

TEST_F(StallDetectorTest, WaitingWithoutAnyStepStallsToo) {
  load_.waiting = 4;
  EXPECT_FALSE(LookAfter(seconds(0)));
  EXPECT_TRUE(LookAfter(seconds(60)));
  EXPECT_EQ(DescribeStall(load_, now_), "no step since step 0 (0 sequences run, 4 wait)");
}

}  // namespace
}  // namespace strata::server::watchdog_test
