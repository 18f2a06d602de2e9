#pragma once

#include <vector>

#include "kernels/attention_types.h"
#include "kernels/cuda/elementwise.h"

namespace strata::kernels::cuda {

// Cuts PrepareAttention into `tasks` that can run at the same time, and writes that must run after
// them (`later`): their values are not finished in one piece by one task.
void CutProjections(const Projections& projections, int32_t head_dim,
                    std::vector<ProjectionTask>* tasks, std::vector<ProjectionTask>* later);

}  // namespace strata::kernels::cuda
