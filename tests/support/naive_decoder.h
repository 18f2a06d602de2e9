#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace strata::testing {

// The oracle: a decoder in double precision that shares no code with the engine. It has no plan,
// cache or kernels: it copies matrices where the engine shares planes, writes out every T x T
// matrix of probabilities, and recomputes the whole sequence each time.

// Row-major, [rows, cols].
struct NaiveMatrix {
  int rows = 0;
  int cols = 0;
  std::vector<double> values;

  NaiveMatrix() = default;
  NaiveMatrix(int num_rows, int num_cols)
      : rows(num_rows),
        cols(num_cols),
        values(static_cast<size_t>(num_rows) * static_cast<size_t>(num_cols)) {}
  double* row(int i) { return values.data() + static_cast<size_t>(i) * static_cast<size_t>(cols); }
  const double* row(int i) const {
    return values.data() + static_cast<size_t>(i) * static_cast<size_t>(cols);
  }
};

struct NaiveTensor {
  std::vector<int64_t> shape;
  std::vector<double> data;
};
using NaiveTensors = std::map<std::string, NaiveTensor, std::less<>>;

// The keys of config.json that a plain Llama decoder needs.
struct NaiveConfig {
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  double epsilon = 0;
  double rope_theta = 0;
  std::string rope_scaling;  // "", "linear" or "llama3"
  double rope_factor = 1;
  double rope_low = 1;
  double rope_high = 4;
  double rope_original_positions = 0;
};
NaiveConfig ReadNaiveConfig(const std::string& config_json);

class NaivePass;

// Storage of keys (after RoPE) and values (after a mix): exact, or each element rounded to the
// nearest bfloat16, ties to even, or each row as whole multiples of 1/127 of its largest magnitude.
enum class NaiveCache { kExact, kBf16, kInt8 };

// Places at which a decoder rounds.
struct NaiveRounding {
  NaiveCache cache = NaiveCache::kExact;
  bool inputs = false;  // rounds each input of a weight matrix to the nearest bfloat16
};

// Attention of the layers, as four functions of (pass, layer, head). The defaults are the standard
// transformer; naive_architectures.h replaces them one by one, following each paper's equation.
struct NaiveArchitecture {
  using Function = std::function<NaiveMatrix(NaivePass&, int layer, int head)>;
  Function probabilities;  // of a query head: [T, T], weights of its values
  Function keys;           // of a query head: [T, d], for its own query
  Function values;         // of a query head: [T, d]
  Function written;        // of a kv head: [T, d], its projected values after any mix
};

// Projections of one run over a sequence, computed when needed.
class NaivePass {
 public:
  NaivePass(const NaiveConfig& config, const NaiveTensors& tensors,
            const NaiveArchitecture& architecture, NaiveRounding rounding)
      : config_(config), tensors_(tensors), architecture_(architecture), rounding_(rounding) {}

  const NaiveConfig& config() const { return config_; }
  const NaiveArchitecture& architecture() const { return architecture_; }
  const NaiveTensor& Tensor(const std::string& name) const;
  // The input of a weight matrix, rounded if NaiveRounding says so.
  NaiveMatrix Input(NaiveMatrix x) const;
  int KvHeadOf(int query_head) const { return query_head * config_.kv_heads / config_.query_heads; }

  // Projections of a layer's normed input, [T, d]; queries and keys after RoPE.
  const NaiveMatrix& Query(int layer, int query_head) { return Head(layer, "q", query_head); }
  const NaiveMatrix& Key(int layer, int kv_head) { return Head(layer, "k", kv_head); }
  const NaiveMatrix& Value(int layer, int kv_head) { return Head(layer, "v", kv_head); }
  // softmax(Q Kᵀ / √d), causal, with the head's own query and architecture().keys.
  const NaiveMatrix& OwnProbabilities(int layer, int query_head);

 private:
  friend class NaiveDecoder;
  const NaiveMatrix& Head(int layer, const char* projection, int head);
  NaiveMatrix Cached(NaiveMatrix plane) const;

  const NaiveConfig& config_;
  const NaiveTensors& tensors_;
  const NaiveArchitecture& architecture_;
  const NaiveRounding rounding_;
  std::vector<NaiveMatrix> inputs_;  // [layer] Input() of the pre-attention norm
  std::map<std::string, NaiveMatrix> heads_;
  std::map<std::pair<int, int>, NaiveMatrix> own_probabilities_;
};

class NaiveDecoder {
 public:
  NaiveDecoder(NaiveConfig config, NaiveTensors tensors, NaiveArchitecture architecture)
      : config_(std::move(config)),
        tensors_(std::move(tensors)),
        architecture_(std::move(architecture)) {}

  // Logits at positions [first, tokens.size()): [positions, vocab].
  NaiveMatrix Logits(std::span<const int32_t> tokens, int first, NaiveRounding rounding = {}) const;

 private:
  const NaiveConfig config_;
  const NaiveTensors tensors_;
  const NaiveArchitecture architecture_;
};

// The lowest id among the largest logits, and the distance to the runner-up.
struct NaiveChoice {
  int32_t token = 0;
  double margin = 0;
  double largest_magnitude = 0;  // max |logit|
};
NaiveChoice Choose(std::span<const double> logits);

}  // namespace strata::testing
