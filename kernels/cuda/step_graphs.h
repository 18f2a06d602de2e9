#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

namespace strata::kernels::cuda {

// Work to be put into a stream. `what` is for errors.
class Work {
 public:
  explicit Work(const char* what) : what_(what) {}
  virtual ~Work() = default;
  virtual cudaError_t Run(cudaStream_t stream) const = 0;
  // Whether it is the same work on the same memory.
  virtual bool Same(const Work& other) const = 0;
  const char* what() const { return what_; }

 private:
  const char* what_;
};
using WorkList = std::vector<std::unique_ptr<Work>>;

// cudaSuccess, or the first error and the work that gave it.
struct WorkResult {
  cudaError_t error = cudaSuccess;
  const char* what = "";
};

// Rows of a decode step of `count` sequences: 1, 2, 4, a multiple of 8, from 256 on of 16. So there
// are few kinds of steps, however sequences come and go.
constexpr int64_t GraphRows(int64_t count) {
  if (count <= 2) return count;
  const int64_t step = count <= 4 ? 4 : count <= 256 ? 8 : 16;
  return (count + step - 1) / step * step;
}

// Decode steps do the same work on the same memory, with other numbers in it each time: while
// neither GraphRows nor the number of runs that contexts are cut into changes, nothing differs. A
// list that comes for the second time becomes a graph; from then on it is one launch. The most
// recently used lists are remembered.
class StepGraphs {
 public:
  StepGraphs() = default;
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  ~StepGraphs();

  // Puts `works` into the stream. If `repeats`, may move them into the list of known works.
  WorkResult Run(cudaStream_t stream, bool repeats, WorkList* works);

 private:
  static constexpr size_t kFewWorks = 16;  // shorter lists are put into the stream one by one
  static constexpr size_t kMostKnown = 64;
  struct Known {
    WorkList works;
    cudaGraphExec_t graph = nullptr;  // null: came once
  };

  static bool Same(const WorkList& a, const WorkList& b);
  static WorkResult RunEach(cudaStream_t stream, const WorkList& works);
  static WorkResult MakeGraph(cudaStream_t stream, Known* known);

  std::list<Known> known_;  // the last used first
};

}  // namespace strata::kernels::cuda
