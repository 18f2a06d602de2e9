#include "tests/support/naive_decoder.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <utility>

#include "nlohmann/json.hpp"

namespace strata::testing {
namespace {

// The innermost loops, without sanitizers' checks of every element, which took half the time of the
// sanitized tests. Callers pass rows of that length.
#define STRATA_UNCHECKED __attribute__((no_sanitize("address", "undefined")))

STRATA_UNCHECKED double Dot(const double* x, const double* y, int count) {
  double sum = 0;
  for (int k = 0; k < count; ++k) sum += x[k] * y[k];
  return sum;
}

STRATA_UNCHECKED void AddScaled(double scale, const double* x, int count, double* to) {
  for (int k = 0; k < count; ++k) to[k] += scale * x[k];
}

// x Wᵀ for rows [first_row, first_row + count) of w: [outputs, inputs].
NaiveMatrix Project(const NaiveMatrix& x, const NaiveTensor& w, int64_t first_row, int count) {
  const int64_t inputs = w.shape.at(1);
  if (inputs != x.cols || first_row + count > w.shape.at(0)) {
    throw std::runtime_error("naive decoder: shape");
  }
  NaiveMatrix y(x.rows, count);
  for (int i = 0; i < x.rows; ++i) {
    for (int j = 0; j < count; ++j) {
      const double* weight = w.data.data() + (first_row + j) * inputs;
      y.row(i)[j] = Dot(x.row(i), weight, x.cols);
    }
  }
  return y;
}

NaiveMatrix Project(const NaiveMatrix& x, const NaiveTensor& w) {
  return Project(x, w, 0, static_cast<int>(w.shape.at(0)));
}

NaiveMatrix Norm(const NaiveMatrix& x, const NaiveTensor& weight, double epsilon) {
  NaiveMatrix y(x.rows, x.cols);
  for (int i = 0; i < x.rows; ++i) {
    double squares = 0;
    for (int j = 0; j < x.cols; ++j) squares += x.row(i)[j] * x.row(i)[j];
    const double scale = 1 / std::sqrt(squares / x.cols + epsilon);
    for (int j = 0; j < x.cols; ++j) {
      y.row(i)[j] = x.row(i)[j] * scale * weight.data.at(static_cast<size_t>(j));
    }
  }
  return y;
}

void AddTo(NaiveMatrix& x, const NaiveMatrix& y) {
  for (size_t i = 0; i < x.values.size(); ++i) x.values[i] += y.values[i];
}

// Radians a position for the pair (j, j + d/2), as Hugging Face scales it.
double Frequency(const NaiveConfig& config, int j) {
  const double plain = std::pow(config.rope_theta, -2.0 * j / config.head_dim);
  if (config.rope_scaling == "linear") return plain / config.rope_factor;
  if (config.rope_scaling != "llama3") return plain;
  const double turns = config.rope_original_positions * plain / (2 * std::numbers::pi);
  if (turns > config.rope_high) return plain;
  if (turns < config.rope_low) return plain / config.rope_factor;
  const double smooth = (turns - config.rope_low) / (config.rope_high - config.rope_low);
  return (1 - smooth) * plain / config.rope_factor + smooth * plain;
}

void Rotate(const NaiveConfig& config, NaiveMatrix& x) {
  const int half = config.head_dim / 2;
  for (int j = 0; j < half; ++j) {
    const double frequency = Frequency(config, j);
    for (int position = 0; position < x.rows; ++position) {
      double& a = x.row(position)[j];
      double& b = x.row(position)[j + half];
      const double c = std::cos(position * frequency);
      const double s = std::sin(position * frequency);
      const double turned = a * c - b * s;
      b = b * c + a * s;
      a = turned;
    }
  }
}

// To the nearest bfloat16, ties to even.
void RoundToBf16(NaiveMatrix& x) {
  for (double& value : x.values) {
    int exponent = 0;
    const double fraction = std::frexp(value, &exponent);  // in [0.5, 1): 8 bits of it stay
    value = std::ldexp(std::nearbyint(fraction * 256), exponent - 8);
  }
}

NaiveMatrix FeedForward(const NaiveMatrix& x, const NaivePass& pass, const std::string& prefix) {
  NaiveMatrix gate = Project(x, pass.Tensor(prefix + "mlp.gate_proj.weight"));
  const NaiveMatrix up = Project(x, pass.Tensor(prefix + "mlp.up_proj.weight"));
  for (size_t i = 0; i < gate.values.size(); ++i) {
    gate.values[i] = gate.values[i] / (1 + std::exp(-gate.values[i])) * up.values[i];
  }
  return Project(pass.Input(std::move(gate)), pass.Tensor(prefix + "mlp.down_proj.weight"));
}

std::string LayerPrefix(int layer) { return "model.layers." + std::to_string(layer) + "."; }

}  // namespace

NaiveConfig ReadNaiveConfig(const std::string& config_json) {
  const nlohmann::json json = nlohmann::json::parse(config_json);
  NaiveConfig config;
  config.layers = json.at("num_hidden_layers");
  config.query_heads = json.at("num_attention_heads");
  config.kv_heads = json.value("num_key_value_heads", config.query_heads);
  const int hidden = json.at("hidden_size");
  config.head_dim = json.value("head_dim", hidden / config.query_heads);
  config.vocab = json.at("vocab_size");
  config.epsilon = json.value("rms_norm_eps", 1e-6);
  config.rope_theta = json.value("rope_theta", 10000.0);
  const auto scaling = json.find("rope_scaling");
  if (scaling == json.end() || scaling->is_null()) return config;
  config.rope_scaling = scaling->contains("rope_type") ? scaling->at("rope_type").get<std::string>()
                                                       : scaling->at("type").get<std::string>();
  config.rope_factor = scaling->value("factor", 1.0);
  config.rope_low = scaling->value("low_freq_factor", 1.0);
  config.rope_high = scaling->value("high_freq_factor", 4.0);
  config.rope_original_positions = scaling->value("original_max_position_embeddings", 8192.0);
  return config;
}

const NaiveTensor& NaivePass::Tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error("naive decoder: no tensor " + name);
  return found->second;
}

const NaiveMatrix& NaivePass::Head(int layer, const char* projection, int head) {
  const std::string name = LayerPrefix(layer) + "self_attn." + projection + "_proj.weight";
  const auto [entry, is_new] = heads_.try_emplace(name + std::to_string(head));
  if (is_new) {
    entry->second = Project(inputs_.at(static_cast<size_t>(layer)), Tensor(name),
                            int64_t{head} * config_.head_dim, config_.head_dim);
    if (*projection != 'v') Rotate(config_, entry->second);
  }
  return entry->second;
}

NaiveMatrix NaivePass::Input(NaiveMatrix x) const {
  if (rounding_.inputs) RoundToBf16(x);
  return x;
}

NaiveMatrix NaivePass::Cached(NaiveMatrix plane) const {
  if (rounding_.cache == NaiveCache::kBf16) RoundToBf16(plane);
  if (rounding_.cache == NaiveCache::kInt8) {
    for (int i = 0; i < plane.rows; ++i) {
      double largest = 0;
      for (int j = 0; j < plane.cols; ++j) largest = std::fmax(largest, std::fabs(plane.row(i)[j]));
      const double step = largest / 127;
      if (step == 0) continue;
      for (int j = 0; j < plane.cols; ++j) {
        plane.row(i)[j] = std::nearbyint(plane.row(i)[j] / step) * step;
      }
    }
  }
  return plane;
}

const NaiveMatrix& NaivePass::OwnProbabilities(int layer, int query_head) {
  const auto [entry, is_new] = own_probabilities_.try_emplace({layer, query_head});
  if (!is_new) return entry->second;
  const NaiveMatrix query = Query(layer, query_head);
  const NaiveMatrix keys = Cached(architecture_.keys(*this, layer, query_head));
  NaiveMatrix probabilities(query.rows, query.rows);
  for (int i = 0; i < query.rows; ++i) {
    double* row = probabilities.row(i);
    double largest = -std::numeric_limits<double>::infinity();
    for (int j = 0; j <= i; ++j) {
      row[j] =
          Dot(query.row(i), keys.row(j), query.cols) / std::sqrt(static_cast<double>(query.cols));
      largest = std::fmax(largest, row[j]);
    }
    double sum = 0;
    for (int j = 0; j <= i; ++j) sum += row[j] = std::exp(row[j] - largest);
    for (int j = 0; j <= i; ++j) row[j] /= sum;
  }
  return entry->second = std::move(probabilities);
}

NaiveMatrix NaiveDecoder::Logits(std::span<const int32_t> tokens, int first,
                                 NaiveRounding rounding) const {
  NaivePass pass(config_, tensors_, architecture_, rounding);
  const int length = static_cast<int>(tokens.size());
  const char* const embedding = "model.embed_tokens.weight";
  const char* const head = "lm_head.weight";
  const NaiveTensor& table = pass.Tensor(tensors_.contains(embedding) ? embedding : head);
  const int hidden = static_cast<int>(table.shape.at(1));
  NaiveMatrix x(length, hidden);
  for (int i = 0; i < length; ++i) {
    for (int j = 0; j < hidden; ++j) {
      x.row(i)[j] = table.data.at(static_cast<size_t>(tokens[static_cast<size_t>(i)]) *
                                      static_cast<size_t>(hidden) +
                                  static_cast<size_t>(j));
    }
  }
  for (int layer = 0; layer < config_.layers; ++layer) {
    const std::string prefix = LayerPrefix(layer);
    pass.inputs_.push_back(
        pass.Input(Norm(x, pass.Tensor(prefix + "input_layernorm.weight"), config_.epsilon)));
    NaiveMatrix attended(length, config_.query_heads * config_.head_dim);
    for (int h = 0; h < config_.query_heads; ++h) {
      const NaiveMatrix probabilities = architecture_.probabilities(pass, layer, h);
      const NaiveMatrix values = pass.Cached(architecture_.values(pass, layer, h));
      for (int i = 0; i < length; ++i) {
        double* out = attended.row(i) + h * config_.head_dim;
        for (int j = 0; j <= i; ++j) {
          AddScaled(probabilities.row(i)[j], values.row(j), values.cols, out);
        }
      }
    }
    AddTo(x, Project(pass.Input(std::move(attended)),
                     pass.Tensor(prefix + "self_attn.o_proj.weight")));
    const NaiveTensor& norm = pass.Tensor(prefix + "post_attention_layernorm.weight");
    AddTo(x, FeedForward(pass.Input(Norm(x, norm, config_.epsilon)), pass, prefix));
  }
  const NaiveMatrix normed = Norm(x, pass.Tensor("model.norm.weight"), config_.epsilon);
  NaiveMatrix last(length - first, hidden);
  for (int i = first; i < length; ++i) {
    for (int j = 0; j < hidden; ++j) last.row(i - first)[j] = normed.row(i)[j];
  }
  return Project(pass.Input(std::move(last)),
                 pass.Tensor(tensors_.contains(head) ? head : embedding));
}

NaiveChoice Choose(std::span<const double> logits) {
  NaiveChoice choice;
  double best = -std::numeric_limits<double>::infinity();
  double second = best;
  for (size_t i = 0; i < logits.size(); ++i) {
    choice.largest_magnitude = std::fmax(choice.largest_magnitude, std::fabs(logits[i]));
    if (logits[i] > best) {
      second = best;
      best = logits[i];
      choice.token = static_cast<int32_t>(i);
    } else {
      second = std::fmax(second, logits[i]);
    }
  }
  choice.margin = best - second;
  return choice;
}

}  // namespace strata::testing
