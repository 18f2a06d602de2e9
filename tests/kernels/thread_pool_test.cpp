#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_count.h"

namespace strata::kernels::thread_pool_test {
namespace {

TEST(ThreadPoolTest, EveryIndexOnceInRangesOfTheGrain) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {0, 1, 3, 64, 5000}) {
        std::vector<int> seen(static_cast<size_t>(count));  // plain: a race would show in TSan
        std::atomic<bool> good = true;
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int worker) {
          const int64_t step = std::max<int64_t>(1, grain);
          if (begin % step != 0 || end != std::min(count, begin + step)) good = false;
          if (worker < 0 || worker >= threads) good = false;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        EXPECT_TRUE(good);
        EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(count), 1));
      }
    }
  }
}

// A loop's writes are visible to the next loop, on any thread; workers sleep in between now and
// then.
TEST(ThreadPoolTest, LoopsFollowOneAnother) {
  ThreadPool pool(3);
  std::vector<int64_t> values(97, 0);
  for (int64_t round = 1; round <= 2000; ++round) {
    pool.ParallelFor(97, 1 + round % 5, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        values[static_cast<size_t>(i)] += 1;
      }
    });
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 97 * round);
  }
}

// Worker numbers are scratch spaces: two bodies at once never have the same.
TEST(ThreadPoolTest, WorkerNumbersAreExclusive) {
  ThreadPool pool(4);
  std::vector<int64_t> scratch(4, 0);  // plain
  for (int round = 0; round < 200; ++round) {
    pool.ParallelFor(64, 1,
                     [&](int64_t, int64_t, int worker) { ++scratch[static_cast<size_t>(worker)]; });
  }
  EXPECT_EQ(std::accumulate(scratch.begin(), scratch.end(), int64_t{0}), 64 * 200);
}

TEST(ThreadPoolTest, WorkersStayOnTheCpusTheyAreGiven) {
  const std::vector<int> allowed = AllowedCpus();
  ASSERT_FALSE(allowed.empty());
  std::vector<std::vector<int>> seen(3);  // of each worker
  std::jthread caller([&] {               // the caller's binding ends with this thread
    ThreadPool pool(3, allowed);
    pool.BindCaller();
    std::atomic<int> inside = 0;
    pool.ParallelFor(3, 1, [&](int64_t, int64_t, int worker) {
      seen[static_cast<size_t>(worker)] = AllowedCpus();
      for (++inside; inside < 3;) std::this_thread::yield();  // so that each worker takes a range
    });
  });
  caller.join();
  for (size_t worker = 0; worker < 3; ++worker) {
    EXPECT_EQ(seen[worker], std::vector<int>{allowed[worker % allowed.size()]}) << worker;
  }
  EXPECT_EQ(AllowedCpus(), allowed);
}

TEST(ThreadPoolTest, StartsAndStopsIdle) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace strata::kernels::thread_pool_test
