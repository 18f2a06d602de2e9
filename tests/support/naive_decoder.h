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

struct NaiveRope {
  double theta = 10000;
  std::string scaling;  // "", "linear", "llama3" or "yarn"
  double factor = 1;
  double low = 1;
  double high = 4;
  double original_positions = 8192;
  int width = 0;             // elements of a head that turn, from the first; 0: no rotation
  bool interleaved = false;  // (2j, 2j + 1) turn together, else (j, j + width / 2)
};

struct NaiveLayer {
  NaiveRope rope;
  int window = 0;  // row i sees key j if i - window < j <= i; 0: all j <= i
};

// A decoder's computation, in values. A bias is added wherever there is a tensor of that name.
struct NaiveConfig {
  std::vector<NaiveLayer> layers;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  double epsilon = 0;
  std::string norm =
      "rms";  // w x / rms(x), "rms+1": (1 + w) x / rms(x), "layer": w (x - mean) / std
  // Norms before attention and feed-forward; "both": before and after each; "after"; "parallel":
  // one norm, whose output both take.
  std::string order = "before";
  std::string
      head_norm;  // of queries and keys before the rotation: "", "head", "all" heads at once
  std::string activation = "silu";  // "gelu_tanh", "gelu", "relu2"
  bool gated = true;
  double score_scale = 0;  // of a query's product with a key
  double score_cap = 0;    // c tanh(score / c); 0: none
  double logit_cap = 0;
  double embedding_multiplier = 1;
  double residual_multiplier = 1;
  double logit_multiplier = 1;
};
// From a config.json: llama, mistral, qwen2, qwen3, gemma2, olmo2, granite, arcee, smollm3, cohere.
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
  // softmax(scale Q Kᵀ), causal, with the head's own query and architecture().keys.
  const NaiveMatrix& OwnProbabilities(int layer, int query_head);

 private:
  friend class NaiveDecoder;
  const NaiveMatrix& Head(int layer, const char* projection, int head);
  // The product with NAME.weight, and NAME.bias if there is one.
  NaiveMatrix Product(const NaiveMatrix& x, const std::string& name) const;
  NaiveMatrix Normed(const NaiveMatrix& x, const std::string& name) const;
  NaiveMatrix Attention(int layer);
  NaiveMatrix FeedForward(const NaiveMatrix& x, int layer) const;
  void RunLayer(int layer, NaiveMatrix& x);
  NaiveMatrix Cached(NaiveMatrix plane) const;

  const NaiveConfig& config_;
  const NaiveTensors& tensors_;
  const NaiveArchitecture& architecture_;
  const NaiveRounding rounding_;
  std::vector<NaiveMatrix> inputs_;  // [layer] of the projections
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
