#pragma once

#include <vector>

#include "engine/serve/engine.h"
#include "prometheus/metric_family.h"

namespace strata::server {

// What the server's state at one moment is, as Prometheus' gauges. A pure function. Used, cached
// and free blocks add up to the pool's, and so do their bytes; a block holds keys and values both.
void AppendGauges(const engine::ModelInfo& model, const engine::Engine::Load& load,
                  std::vector<prometheus::MetricFamily>* families);

// What the process holds of the machine's memory now.
void AppendMemoryGauges(std::vector<prometheus::MetricFamily>* families);

}  // namespace strata::server
