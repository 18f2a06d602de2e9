#include "kernels/cuda/step_graphs.h"

#include <algorithm>

namespace strata::kernels::cuda {

StepGraphs::~StepGraphs() {
  for (const Known& known : known_) {
    if (known.graph != nullptr) cudaGraphExecDestroy(known.graph);
  }
}

WorkResult StepGraphs::Run(cudaStream_t stream, bool repeats, WorkList* works) {
  if (!repeats || works->size() < kFewWorks) return RunEach(stream, *works);
  const auto found = std::find_if(known_.begin(), known_.end(),
                                  [&](const Known& known) { return Same(known.works, *works); });
  if (found == known_.end()) {
    if (known_.size() == kMostKnown) {
      if (known_.back().graph != nullptr) cudaGraphExecDestroy(known_.back().graph);
      known_.pop_back();
    }
    known_.push_front({.works = std::move(*works)});
    return RunEach(stream, known_.front().works);
  }
  known_.splice(known_.begin(), known_, found);
  if (found->graph == nullptr) {
    const WorkResult made = MakeGraph(stream, &*found);
    if (made.error != cudaSuccess) return made;
  }
  return {cudaGraphLaunch(found->graph, stream), "a step's graph"};
}

bool StepGraphs::Same(const WorkList& a, const WorkList& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& one, const auto& other) { return one->Same(*other); });
}

WorkResult StepGraphs::RunEach(cudaStream_t stream, const WorkList& works) {
  for (const auto& work : works) {
    const cudaError_t error = work->Run(stream);
    if (error != cudaSuccess) return {error, work->what()};
  }
  return {};
}

WorkResult StepGraphs::MakeGraph(cudaStream_t stream, Known* known) {
  constexpr const char* kWhat = "making a graph of a step";
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return {error, kWhat};
  const WorkResult result = RunEach(stream, known->works);
  cudaGraph_t graph = nullptr;
  error = cudaStreamEndCapture(stream, &graph);
  if (result.error != cudaSuccess) return result;
  if (error == cudaSuccess) error = cudaGraphInstantiate(&known->graph, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  return {error, kWhat};
}

}  // namespace strata::kernels::cuda
