#pragma once

#include <vector>

#include "engine/serve/engine.h"
#include "prometheus/metric_family.h"

namespace strata::server {

// Prometheus' gauges of the server's state at one moment. A pure function. Used, cached and free
// blocks add up to the pool's, and so do their bytes; a block holds keys and values both.
void AppendGauges(const engine::ModelInfo& model, const engine::Engine::Load& load,
                  std::vector<prometheus::MetricFamily>* families);

// Gauges of the machine's memory that the process holds now.
void AppendMemoryGauges(std::vector<prometheus::MetricFamily>* families);

}  // namespace strata::server
