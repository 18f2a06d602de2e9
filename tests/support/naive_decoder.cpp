#include "tests/support/naive_decoder.h"

#include <algorithm>
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

// `kind` as NaiveConfig::norm.
NaiveMatrix Norm(const NaiveMatrix& x, const NaiveTensor& weight, double epsilon,
                 const std::string& kind) {
  NaiveMatrix y(x.rows, x.cols);
  for (int i = 0; i < x.rows; ++i) {
    double mean = 0;
    if (kind == "layer") {
      for (int j = 0; j < x.cols; ++j) mean += x.row(i)[j] / x.cols;
    }
    double squares = 0;
    for (int j = 0; j < x.cols; ++j) squares += (x.row(i)[j] - mean) * (x.row(i)[j] - mean);
    const double scale = 1 / std::sqrt(squares / x.cols + epsilon);
    for (int j = 0; j < x.cols; ++j) {
      const double w = weight.data.at(static_cast<size_t>(j)) + (kind == "rms+1" ? 1 : 0);
      y.row(i)[j] = (x.row(i)[j] - mean) * scale * w;
    }
  }
  return y;
}

void AddTo(NaiveMatrix& x, const NaiveMatrix& y, double multiplier) {
  for (size_t i = 0; i < x.values.size(); ++i) x.values[i] += multiplier * y.values[i];
}

double Capped(double x, double cap) { return cap == 0 ? x : cap * std::tanh(x / cap); }

double Activated(double x, const std::string& activation) {
  if (activation == "silu") return x / (1 + std::exp(-x));
  if (activation == "gelu") return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
  if (activation == "relu2") return x > 0 ? x * x : 0;
  if (activation != "gelu_tanh") throw std::runtime_error("naive decoder: " + activation);
  const double inner = x + 0.044715 * x * x * x;
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * inner));
}

// Radians a position for pair j, as Hugging Face scales it.
double Frequency(const NaiveRope& rope, int j) {
  const double plain = std::pow(rope.theta, -2.0 * j / rope.width);
  if (rope.scaling == "linear") return plain / rope.factor;
  if (rope.scaling == "yarn") {  // arXiv 2309.00071, with 32 and 1 turns as the ends of the ramp
    const auto pair = [&rope](double turns) {
      return rope.width * std::log(rope.original_positions / (2 * std::numbers::pi * turns)) /
             (2 * std::log(rope.theta));
    };
    const double low = std::fmax(std::floor(pair(32)), 0);
    const double high = std::fmin(std::ceil(pair(1)), rope.width - 1);
    const double slow = std::clamp((j - low) / std::fmax(high - low, 0.001), 0.0, 1.0);
    return plain / rope.factor * slow + plain * (1 - slow);
  }
  if (rope.scaling != "llama3") return plain;
  const double turns = rope.original_positions * plain / (2 * std::numbers::pi);
  if (turns > rope.high) return plain;
  if (turns < rope.low) return plain / rope.factor;
  const double smooth = (turns - rope.low) / (rope.high - rope.low);
  return (1 - smooth) * plain / rope.factor + smooth * plain;
}

void Rotate(const NaiveRope& rope, NaiveMatrix& x) {
  const double length = rope.scaling == "yarn" ? 0.1 * std::log(rope.factor) + 1 : 1;
  const int half = rope.width / 2;
  for (int j = 0; j < half; ++j) {
    const double frequency = Frequency(rope, j);
    for (int position = 0; position < x.rows; ++position) {
      double& a = x.row(position)[rope.interleaved ? 2 * j : j];
      double& b = x.row(position)[rope.interleaved ? 2 * j + 1 : j + half];
      const double c = length * std::cos(position * frequency);
      const double s = length * std::sin(position * frequency);
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

std::string LayerPrefix(int layer) { return "model.layers." + std::to_string(layer) + "."; }

}  // namespace

namespace {

// The scaling of old files, or the parameters of new ones.
NaiveRope ReadRope(const nlohmann::json& json, int head_dim) {
  NaiveRope rope;
  rope.theta = json.value("rope_theta", 10000.0);
  double part = json.value("partial_rotary_factor", 1.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!json.contains(key) || json.at(key).is_null()) continue;
    const nlohmann::json& scaling = json.at(key);
    rope.scaling = scaling.value("rope_type", scaling.value("type", ""));
    rope.theta = scaling.value("rope_theta", rope.theta);
    part = scaling.value("partial_rotary_factor", part);
    rope.factor = scaling.value("factor", 1.0);
    rope.low = scaling.value("low_freq_factor", 1.0);
    rope.high = scaling.value("high_freq_factor", 4.0);
    rope.original_positions = scaling.value("original_max_position_embeddings", 8192.0);
  }
  rope.width = static_cast<int>(head_dim * part);
  return rope;
}

// The values by which a family differs from Llama.
void ReadFamily(const std::string& family, const nlohmann::json& json, NaiveConfig& config) {
  if (family == "mistral") {
    for (NaiveLayer& layer : config.layers) {
      if (!json.at("sliding_window").is_null()) layer.window = json.at("sliding_window");
    }
  } else if (family == "qwen3") {
    config.head_norm = "head";
  } else if (family == "gemma2") {
    config.norm = "rms+1";
    config.order = "both";
    config.activation = "gelu_tanh";
    config.embedding_multiplier = std::sqrt(json.at("hidden_size").get<double>());
    config.score_scale = 1 / std::sqrt(json.at("query_pre_attn_scalar").get<double>());
    config.score_cap = json.at("attn_logit_softcapping");
    config.logit_cap = json.at("final_logit_softcapping");
    for (size_t layer = 0; layer < config.layers.size(); layer += 2) {
      config.layers[layer].window = json.at("sliding_window");
    }
  } else if (family == "olmo2") {
    config.order = "after";
    config.head_norm = "all";
  } else if (family == "granite") {
    config.embedding_multiplier = json.at("embedding_multiplier");
    config.score_scale = json.at("attention_multiplier");
    config.residual_multiplier = json.at("residual_multiplier");
    config.logit_multiplier = 1 / json.at("logits_scaling").get<double>();
  } else if (family == "arcee") {
    config.activation = "relu2";
    config.gated = false;
  } else if (family == "smollm3") {
    for (size_t layer = 0; layer < config.layers.size(); ++layer) {
      if (json.at("no_rope_layers").at(layer) == 0) config.layers[layer].rope.width = 0;
    }
  } else if (family == "cohere") {
    config.norm = "layer";
    config.order = "parallel";
    config.epsilon = json.at("layer_norm_eps");
    config.logit_multiplier = json.at("logit_scale");
    if (json.value("use_qk_norm", false)) config.head_norm = "head";
    for (NaiveLayer& layer : config.layers) layer.rope.interleaved = true;
  } else if (family != "llama" && family != "qwen2") {
    throw std::runtime_error("naive decoder: no family " + family);
  }
}

}  // namespace

NaiveConfig ReadNaiveConfig(const std::string& config_json) {
  const nlohmann::json json = nlohmann::json::parse(config_json);
  NaiveConfig config;
  config.query_heads = json.at("num_attention_heads");
  config.kv_heads = json.value("num_key_value_heads", config.query_heads);
  const int hidden = json.at("hidden_size");
  config.head_dim = hidden / config.query_heads;
  if (json.contains("head_dim") && !json.at("head_dim").is_null()) {
    config.head_dim = json.at("head_dim");
  }
  config.vocab = json.at("vocab_size");
  config.epsilon = json.value("rms_norm_eps", 1e-6);
  config.score_scale = 1 / std::sqrt(double{1} * config.head_dim);
  config.layers.assign(json.at("num_hidden_layers").get<size_t>(),
                       {.rope = ReadRope(json, config.head_dim)});
  ReadFamily(json.value("model_type", "llama"), json, config);
  return config;
}

const NaiveTensor& NaivePass::Tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error("naive decoder: no tensor " + name);
  return found->second;
}

NaiveMatrix NaivePass::Product(const NaiveMatrix& x, const std::string& name) const {
  NaiveMatrix y = Project(x, Tensor(name + ".weight"));
  const auto bias = tensors_.find(name + ".bias");
  for (int i = 0; bias != tensors_.end() && i < y.rows; ++i) {
    for (int j = 0; j < y.cols; ++j) y.row(i)[j] += bias->second.data.at(static_cast<size_t>(j));
  }
  return y;
}

const NaiveMatrix& NaivePass::Head(int layer, const char* projection, int head) {
  const std::string name = LayerPrefix(layer) + "self_attn." + projection;
  const auto [entry, is_new] = heads_.try_emplace(name + std::to_string(head));
  if (!is_new) return entry->second;
  const NaiveMatrix& input = inputs_.at(static_cast<size_t>(layer));
  const bool is_value = *projection == 'v';
  NaiveMatrix y(input.rows, config_.head_dim);
  if (config_.head_norm.empty() && !tensors_.contains(name + "_proj.bias")) {
    y = Project(input, Tensor(name + "_proj.weight"), int64_t{head} * config_.head_dim,
                config_.head_dim);
  } else {
    NaiveMatrix all = Product(input, name + "_proj");
    if (!is_value && config_.head_norm == "all") {
      all = Norm(all, Tensor(name + "_norm.weight"), config_.epsilon, config_.norm);
    }
    for (int i = 0; i < y.rows; ++i) {
      for (int j = 0; j < y.cols; ++j) y.row(i)[j] = all.row(i)[head * config_.head_dim + j];
    }
    if (!is_value && config_.head_norm == "head") {
      NaiveTensor weight = Tensor(name + "_norm.weight");  // of one head, or of each
      if (weight.shape.size() == 2) {
        weight.data.erase(weight.data.begin(), weight.data.begin() + head * y.cols);
      }
      y = Norm(y, weight, config_.epsilon, config_.norm);
    }
  }
  if (!is_value) Rotate(config_.layers[static_cast<size_t>(layer)].rope, y);
  return entry->second = std::move(y);
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
  const int window = config_.layers[static_cast<size_t>(layer)].window;
  NaiveMatrix probabilities(query.rows, query.rows);
  for (int i = 0; i < query.rows; ++i) {
    const int first = window == 0 ? 0 : std::max(0, i - window + 1);
    double* row = probabilities.row(i);
    double largest = -std::numeric_limits<double>::infinity();
    for (int j = first; j <= i; ++j) {
      const double score = Dot(query.row(i), keys.row(j), query.cols) * config_.score_scale;
      row[j] = Capped(score, config_.score_cap);
      largest = std::fmax(largest, row[j]);
    }
    double sum = 0;
    for (int j = first; j <= i; ++j) sum += row[j] = std::exp(row[j] - largest);
    for (int j = first; j <= i; ++j) row[j] /= sum;
  }
  return entry->second = std::move(probabilities);
}

NaiveMatrix NaivePass::Attention(int layer) {
  const int length = inputs_.back().rows;
  NaiveMatrix attended(length, config_.query_heads * config_.head_dim);
  for (int h = 0; h < config_.query_heads; ++h) {
    const NaiveMatrix probabilities = architecture_.probabilities(*this, layer, h);
    const NaiveMatrix values = Cached(architecture_.values(*this, layer, h));
    for (int i = 0; i < length; ++i) {
      double* out = attended.row(i) + h * config_.head_dim;
      for (int j = 0; j <= i; ++j) {
        AddScaled(probabilities.row(i)[j], values.row(j), values.cols, out);
      }
    }
  }
  return Product(Input(std::move(attended)), LayerPrefix(layer) + "self_attn.o_proj");
}

NaiveMatrix NaivePass::FeedForward(const NaiveMatrix& x, int layer) const {
  const std::string prefix = LayerPrefix(layer) + "mlp.";
  NaiveMatrix up = Product(x, prefix + "up_proj");
  if (config_.gated) {
    const NaiveMatrix gate = Product(x, prefix + "gate_proj");
    for (size_t i = 0; i < up.values.size(); ++i) {
      up.values[i] *= Activated(gate.values[i], config_.activation);
    }
  } else {
    for (double& value : up.values) value = Activated(value, config_.activation);
  }
  return Product(Input(std::move(up)), prefix + "down_proj");
}

NaiveMatrix NaivePass::Normed(const NaiveMatrix& x, const std::string& name) const {
  return Norm(x, Tensor(name + ".weight"), config_.epsilon, config_.norm);
}

// Adds a layer's attention and feed-forward block to x.
void NaivePass::RunLayer(int layer, NaiveMatrix& x) {
  const std::string prefix = LayerPrefix(layer);
  const bool after = config_.order == "after";
  const bool both = config_.order == "both";
  inputs_.push_back(Input(after ? x : Normed(x, prefix + "input_layernorm")));
  NaiveMatrix attended = Attention(layer);
  if (after || both) attended = Normed(attended, prefix + "post_attention_layernorm");
  AddTo(x, attended, config_.residual_multiplier);
  NaiveMatrix fed;
  if (config_.order == "parallel") {
    fed = FeedForward(inputs_.back(), layer);
  } else if (after) {
    fed = FeedForward(Input(x), layer);
  } else {
    const char* const norm = both ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    fed = FeedForward(Input(Normed(x, prefix + norm)), layer);
  }
  if (after || both) fed = Normed(fed, prefix + "post_feedforward_layernorm");
  AddTo(x, fed, config_.residual_multiplier);
}

NaiveMatrix NaiveDecoder::Logits(std::span<const int32_t> tokens, int first,
                                 NaiveRounding rounding) const {
  NaivePass pass(config_, tensors_, architecture_, rounding);
  const int length = static_cast<int>(tokens.size());
  const std::string embedding = "model.embed_tokens";
  const std::string head = "lm_head";
  const bool has_embedding = tensors_.contains(embedding + ".weight");
  const NaiveTensor& table = pass.Tensor((has_embedding ? embedding : head) + ".weight");
  const int hidden = static_cast<int>(table.shape.at(1));
  NaiveMatrix x(length, hidden);
  for (int i = 0; i < length; ++i) {
    for (int j = 0; j < hidden; ++j) {
      x.row(i)[j] = config_.embedding_multiplier *
                    table.data.at(static_cast<size_t>(tokens[static_cast<size_t>(i)]) *
                                      static_cast<size_t>(hidden) +
                                  static_cast<size_t>(j));
    }
  }
  for (int layer = 0; layer < static_cast<int>(config_.layers.size()); ++layer) {
    pass.RunLayer(layer, x);
  }
  const NaiveMatrix normed = pass.Normed(x, "model.norm");
  NaiveMatrix last(length - first, hidden);
  for (int i = first; i < length; ++i) {
    for (int j = 0; j < hidden; ++j) last.row(i - first)[j] = normed.row(i)[j];
  }
  NaiveMatrix logits = pass.Product(pass.Input(std::move(last)),
                                    tensors_.contains(head + ".weight") ? head : embedding);
  for (double& logit : logits.values) {
    logit = Capped(logit * config_.logit_multiplier, config_.logit_cap);
  }
  return logits;
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
