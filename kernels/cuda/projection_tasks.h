#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/elementwise.h"

namespace strata::kernels::cuda {

// Cuts what PrepareAttention does into tasks that can run at the same time, and those that have to
// wait for them: writes of what a task before has not finished in one piece (`later`).
void CutProjections(const Projections& projections, int32_t head_dim,
                    std::vector<ProjectionTask>* tasks, std::vector<ProjectionTask>* later);

}  // namespace strata::kernels::cuda
