#include "kernels/cuda/projection_tasks.h"

#include <algorithm>

namespace strata::kernels::cuda {
namespace {

void SetWrite(const PlaneWrite& write, ProjectionTask* task) {
  task->write = true;
  task->is_key = write.kind == PlaneKind::kKey;
  task->plane_offset = write.plane_offset;
}

bool Overlaps(const ProjectionTask& task, const float* source, int32_t columns) {
  return task.data < source + columns && source < task.data + task.columns;
}

}  // namespace

void CutProjections(const Projections& projections, int32_t head_dim,
                    std::vector<ProjectionTask>* tasks, std::vector<ProjectionTask>* later) {
  tasks->clear();
  later->clear();
  const Rows& rotated = projections.rotated;
  for (int64_t column = 0; column < rotated.num_cols; column += head_dim) {
    tasks->push_back({.data = rotated.data + column,
                      .stride = rotated.stride,
                      .columns = head_dim,
                      .rotate = true});
  }
  for (const ValueMix& mix : projections.mixes) {
    // Head by head, so that the task that mixes a head can also write it.
    const bool whole_heads = head_dim > 0 && mix.values.num_cols % head_dim == 0;
    const int64_t columns = whole_heads ? head_dim : mix.values.num_cols;
    for (int64_t column = 0; column < mix.values.num_cols; column += columns) {
      tasks->push_back({.data = mix.values.data + column,
                        .stride = mix.values.stride,
                        .columns = static_cast<int32_t>(columns),
                        .mix = true,
                        .own = mix.own,
                        .first = mix.first,
                        .first_values = mix.first_values.data + column,
                        .first_stride = mix.first_values.stride});
    }
  }
  const size_t num_changing = tasks->size();
  for (const PlaneWrite& write : projections.writes) {
    ProjectionTask own = {.data = const_cast<float*>(write.source),  // is not written to
                          .stride = write.source_stride,
                          .columns = head_dim};
    SetWrite(write, &own);
    const auto changing_end = tasks->begin() + static_cast<int64_t>(num_changing);
    const auto changing = std::find_if(tasks->begin(), changing_end, [&](const auto& task) {
      return Overlaps(task, write.source, head_dim);
    });
    if (changing == changing_end) {
      tasks->push_back(own);
    } else if (changing->data == write.source && changing->columns == head_dim &&
               changing->stride == write.source_stride && !changing->write) {
      SetWrite(write, &*changing);
    } else {
      later->push_back(own);
    }
  }
}

}  // namespace strata::kernels::cuda
