#include "engine/model/weights.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/hf_directory.h"
#include "engine/model/resolve_plan.h"
#include "engine/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/plan/plan_parser.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::weights_test {
namespace {

using ::strata::testing::MakeTinyModel;
using ::strata::testing::NamedTensor;
using ::strata::testing::TinyModel;
using ::strata::testing::TinyModelOptions;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;
using kernels::ElementType;
using kernels::MatrixFormat;
using kvcache::SharingPlan;

constexpr kvcache::AttentionShape kGrouped = {
    .num_layers = 4, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 8};

// One plan for each way in which projections can be missing, whole or for some heads.
const std::vector<std::pair<std::string, Json>>& Plans() {
  static const std::vector<std::pair<std::string, Json>> plans = {
      {"plain", nullptr},
      {"svformer", {{"preset", "svformer"}}},
      {"anchors", {{"preset", "svformer"}, {"anchors", {0, 2}}}},
      {"resformer", {{"preset", "resformer"}, {"mix", "identity"}}},
      {"learnable", {{"preset", "resformer"}, {"mix", "learnable"}}},
      {"reuse", {{"preset", "reuse"}, {"compute_layers", {0, 2}}}},
      {"partial", {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 2}}},
      {"both", Json::parse(R"([{"preset":"svformer"},{"preset":"reuse","compute_layers":[0,2]}])")},
      {"sla", {{"preset", "sla"}, {"skip_layers", 2}, {"skip_heads", 2}}},
      {"cla", {{"preset", "cla"}, {"factor", 2}}},
  };
  return plans;
}

// A model in memory, and the engine's weights of it.
struct Loaded {
  TinyModel model;
  std::string file;
  ModelSpec spec;
  std::unique_ptr<Checkpoint> checkpoint;

  absl::StatusOr<SharingPlan> Plan(const Json& plan_override = nullptr) const {
    if (plan_override.is_null()) return ResolvePlan(spec, *checkpoint, std::nullopt);
    ASSIGN_OR_RETURN(const SharingPlan given, kvcache::ParsePlan(plan_override, spec.shape()));
    return ResolvePlan(spec, *checkpoint, given);
  }
};

Loaded Open(TinyModel model) {
  Loaded loaded;
  loaded.model = std::move(model);
  loaded.file = loaded.model.Safetensors();
  loaded.spec = ParseModelSpec(loaded.model.config_json).value();
  loaded.checkpoint = Checkpoint::FromBytes(loaded.file).value();
  return loaded;
}

Loaded Make(const TinyModelOptions& options) { return Open(MakeTinyModel(options)); }

void Remove(TinyModel& model, const std::string& name) {
  std::erase_if(model.tensors, [&](const NamedTensor& tensor) { return tensor.name == name; });
}

NamedTensor& Mutable(TinyModel& model, const std::string& name) {
  return *std::find_if(model.tensors.begin(), model.tensors.end(),
                       [&](const NamedTensor& tensor) { return tensor.name == name; });
}

class WeightsTest : public ::testing::Test {
 protected:
  absl::StatusOr<Weights> Load(const Loaded& loaded, MatrixFormat dtype = MatrixFormat::kF32) {
    const auto plan = loaded.Plan();
    if (!plan.ok()) return plan.status();
    return LoadWeights(loaded.spec, TensorsOf(loaded.spec, *plan), *loaded.checkpoint, dtype,
                       backend_.get());
  }
  std::string LoadError(TinyModel model) {
    const auto weights = Load(Open(std::move(model)));
    EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(weights.status().message());
  }
  // All rows of a matrix, read through the backend.
  std::vector<float> Rows(const kernels::Matrix& matrix) {
    std::vector<int32_t> ids(static_cast<size_t>(matrix.num_outputs()));
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<float> rows(ids.size() * static_cast<size_t>(matrix.num_inputs()));
    const size_t bytes = rows.size() * sizeof(float);
    const auto buffer = backend_->Allocate(bytes).value();
    backend_->Embed(
        matrix, ids,
        {buffer->floats(), matrix.num_outputs(), matrix.num_inputs(), matrix.num_inputs()});
    backend_->CopyToHost(std::as_writable_bytes(std::span(rows)), buffer->data());
    return rows;
  }
  std::vector<float> Floats(const kernels::Buffer& buffer) {
    std::vector<float> floats(buffer.size() / sizeof(float));
    backend_->CopyToHost(std::as_writable_bytes(std::span(floats)), buffer.data());
    return floats;
  }

  std::unique_ptr<kernels::Backend> backend_ =
      kernels::CreateBackend({.device = "cpu", .threads = 1}).value();
};

// The rows of `heads` out of a full-size projection.
void AppendRows(const NamedTensor& full, const std::vector<int32_t>& heads, int32_t head_dim,
                std::vector<float>& rows) {
  const int64_t size = head_dim * full.shape[1];
  for (const int32_t head : heads) {
    rows.insert(rows.end(), full.data.begin() + head * size, full.data.begin() + (head + 1) * size);
  }
}

std::string Projection(int32_t layer, const char* which) {
  return "model.layers." + std::to_string(layer) + ".self_attn." + which + "_proj.weight";
}

TEST_F(WeightsTest, StacksTheLivingRowsOfEveryPlan) {
  for (const auto& [name, cross_layer] : Plans()) {
    for (const bool trim : {true, false}) {
      SCOPED_TRACE(name + (trim ? " trimmed" : " full"));
      const TinyModelOptions options = {
          .attention = kGrouped, .cross_layer = cross_layer, .trim = trim};
      const Loaded loaded = Make(options);
      const auto weights = Load(loaded);
      ASSERT_TRUE(weights.ok()) << weights.status();
      TinyModelOptions full_options = options;
      full_options.trim = false;
      const TinyModel full = MakeTinyModel(full_options);
      const SharingPlan plan = loaded.Plan().value();
      for (int32_t l = 0; l < kGrouped.num_layers; ++l) {
        std::vector<float> rows;
        AppendRows(full.Tensor(Projection(l, "q")), plan.QueryHeads(l), 8, rows);
        AppendRows(full.Tensor(Projection(l, "k")), plan.KeyHeads(l), 8, rows);
        AppendRows(full.Tensor(Projection(l, "v")), plan.ValueHeads(l), 8, rows);
        const LayerWeights& layer = weights->layers[static_cast<size_t>(l)];
        ASSERT_EQ(layer.qkv == nullptr, rows.empty()) << l;
        if (layer.qkv != nullptr) {
          EXPECT_EQ(Rows(*layer.qkv), rows) << l;
        }
      }
    }
  }
}

TEST_F(WeightsTest, LayerWithoutProjectionsHasNoStack) {
  const Loaded loaded = Make({.cross_layer = Plans()[7].second});
  const auto weights = Load(loaded);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_NE(weights->layers[0].qkv, nullptr);
  EXPECT_EQ(weights->layers[1].qkv, nullptr);
  EXPECT_NE(weights->layers[1].output, nullptr);
  EXPECT_NE(weights->layers[2].qkv, nullptr);
}

TEST_F(WeightsTest, LoadsTheOtherTensorsWhole) {
  const Loaded loaded = Make({.tied = false});
  const auto weights = Load(loaded);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto tensor = [&](const std::string& name) { return loaded.model.Tensor(name).data; };
  EXPECT_EQ(Rows(*weights->embedding), tensor("model.embed_tokens.weight"));
  EXPECT_EQ(Rows(*weights->head), tensor("lm_head.weight"));
  EXPECT_EQ(&weights->lm_head(), weights->head.get());
  EXPECT_EQ(Floats(*weights->final_norm), tensor("model.norm.weight"));
  const LayerWeights& layer = weights->layers[3];
  const std::string prefix = "model.layers.3.";
  EXPECT_EQ(Floats(*layer.input_norm), tensor(prefix + "input_layernorm.weight"));
  EXPECT_EQ(Floats(*layer.post_attention_norm), tensor(prefix + "post_attention_layernorm.weight"));
  EXPECT_EQ(Rows(*layer.output), tensor(prefix + "self_attn.o_proj.weight"));
  EXPECT_EQ(Rows(*layer.down), tensor(prefix + "mlp.down_proj.weight"));
  std::vector<float> gate_up = tensor(prefix + "mlp.gate_proj.weight");
  const std::vector<float> up = tensor(prefix + "mlp.up_proj.weight");
  gate_up.insert(gate_up.end(), up.begin(), up.end());
  EXPECT_EQ(Rows(*layer.gate_up), gate_up);
}

TEST_F(WeightsTest, LoadsEveryStoredDTypeExactly) {
  for (const ElementType dtype : {ElementType::kF32, ElementType::kBF16, ElementType::kF16}) {
    SCOPED_TRACE(kernels::FormatName(dtype));
    const Loaded loaded = Make({.dtype = dtype});
    EXPECT_EQ(loaded.spec.dtype, dtype);
    const auto weights = Load(loaded);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(Rows(*weights->embedding), loaded.model.Tensor("model.embed_tokens.weight").data);
    EXPECT_EQ(Floats(*weights->final_norm), loaded.model.Tensor("model.norm.weight").data);
  }
}

TEST_F(WeightsTest, KeepsMatricesInTheDTypeAskedFor) {
  const Loaded loaded = Make({.dtype = ElementType::kBF16});
  const auto narrow = Load(loaded, MatrixFormat::kBF16);
  const auto wide = Load(loaded, MatrixFormat::kF32);
  ASSERT_TRUE(narrow.ok() && wide.ok());
  EXPECT_EQ(Rows(*narrow->embedding), Rows(*wide->embedding));
  EXPECT_EQ(2 * narrow->embedding->bytes(), wide->embedding->bytes());
  EXPECT_LT(narrow->bytes, wide->bytes);
  EXPECT_EQ(narrow->parameters, wide->parameters);
  const auto bytes = Load(loaded, MatrixFormat::kI8);
  ASSERT_TRUE(bytes.ok());
  // A scale for each of the table's 96 rows.
  EXPECT_EQ(4 * bytes->embedding->bytes(), wide->embedding->bytes() + 4 * 96 * sizeof(float));
  EXPECT_EQ(bytes->parameters, wide->parameters);
  EXPECT_EQ(Floats(*bytes->final_norm), Floats(*wide->final_norm));
}

TEST_F(WeightsTest, CountsParametersInUseAndNamesTheOthers) {
  TinyModel model = MakeTinyModel({.cross_layer = {{"preset", "svformer"}}, .trim = false});
  const auto trimmed = Load(Make({.cross_layer = {{"preset", "svformer"}}}));
  ASSERT_TRUE(trimmed.ok()) << trimmed.status();
  EXPECT_THAT(trimmed->unused, IsEmpty());
  model.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {4}, {1, 2, 3, 4}});
  const auto full = Load(Open(model));
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_THAT(full->unused,
              ElementsAre("model.layers.0.self_attn.rotary_emb.inv_freq", Projection(1, "v"),
                          Projection(2, "v"), Projection(3, "v")));
  EXPECT_EQ(full->parameters, trimmed->parameters);
  EXPECT_EQ(full->bytes, trimmed->bytes);
  // Tied embedding, final norm; q, k, o, two norms and the MLP of four layers; one v.
  EXPECT_EQ(full->parameters, 96 * 32 + 32 + 4 * (3 * 32 * 32 + 2 * 32 + 3 * 48 * 32) + 32 * 32);
}

TEST_F(WeightsTest, TiedModelMayStoreEitherTable) {
  const TinyModel embedding = MakeTinyModel({});
  TinyModel head = embedding;
  Mutable(head, "model.embed_tokens.weight").name = "lm_head.weight";
  TinyModel both = embedding;
  both.tensors.push_back(embedding.Tensor("model.embed_tokens.weight"));
  both.tensors.back().name = "lm_head.weight";
  for (const TinyModel& model : {embedding, head, both}) {
    const auto weights = Load(Open(model));
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(weights->head, nullptr);
    EXPECT_EQ(&weights->lm_head(), weights->embedding.get());
    EXPECT_EQ(Rows(*weights->embedding), embedding.Tensor("model.embed_tokens.weight").data);
    EXPECT_EQ(weights->unused.size(), model.tensors.size() - embedding.tensors.size());
  }
}

TEST_F(WeightsTest, NamesMissingTensors) {
  const TinyModelOptions options = {.attention = kGrouped, .tied = false};
  for (const auto& [name, shape] : std::vector<std::pair<std::string, std::string>>{
           {"model.embed_tokens.weight", "[96, 32]"},
           {"lm_head.weight", "[96, 32]"},
           {"model.norm.weight", "[32]"},
           {"model.layers.0.input_layernorm.weight", "[32]"},
           {"model.layers.1.post_attention_layernorm.weight", "[32]"},
           {"model.layers.2.self_attn.o_proj.weight", "[32, 32]"},
           {"model.layers.3.mlp.gate_proj.weight", "[48, 32]"},
           {"model.layers.3.mlp.up_proj.weight", "[48, 32]"},
           {"model.layers.3.mlp.down_proj.weight", "[32, 48]"}}) {
    TinyModel model = MakeTinyModel(options);
    Remove(model, name);
    EXPECT_EQ(LoadError(model), name + ": missing, expected " + shape);
  }
  TinyModelOptions with_plan = options;
  with_plan.cross_layer = {{"preset", "plain"}};
  TinyModel model = MakeTinyModel(with_plan);
  Remove(model, Projection(3, "k"));
  EXPECT_EQ(LoadError(model), Projection(3, "k") + ": missing, expected [16, 32]");
  TinyModel tied = MakeTinyModel({});
  Remove(tied, "model.embed_tokens.weight");
  EXPECT_EQ(LoadError(tied), "model.embed_tokens.weight: missing, expected [96, 32]");
}

TEST_F(WeightsTest, NamesExpectedAgainstActualShape) {
  TinyModel model = MakeTinyModel({});
  Mutable(model, "model.norm.weight").shape = {1, 32};
  EXPECT_EQ(LoadError(model), "model.norm.weight: expected [32], found [1, 32]");
  model = MakeTinyModel({});
  Mutable(model, Projection(0, "o")).shape = {1024};
  EXPECT_EQ(LoadError(model), Projection(0, "o") + ": expected [32, 32], found [1024]");
  // Two of four heads' rows live; one head's or three heads' are neither trimmed nor full.
  model = MakeTinyModel({.cross_layer = Plans()[6].second});
  NamedTensor& query = Mutable(model, Projection(1, "q"));
  EXPECT_THAT(query.shape, ElementsAre(16, 32));
  query.shape[0] = 8;
  query.data.resize(8 * 32);
  EXPECT_EQ(LoadError(model),
            Projection(1, "q") + ": expected [16, 32] or [32, 32], found [8, 32]");
}

TEST_F(WeightsTest, RefusesADTypeThatCannotBeLoaded) {
  const TinyModel model = MakeTinyModel({});
  std::string file = model.Safetensors();
  // The same size with another meaning.
  const size_t entry = file.find("\"model.norm.weight\"");
  ASSERT_NE(entry, std::string::npos);
  file.replace(file.find("F32", entry), 3, "I32");
  const ModelSpec spec = ParseModelSpec(model.config_json).value();
  const auto checkpoint = Checkpoint::FromBytes(file);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weights = LoadWeights(spec, TensorsOf(spec, SharingPlan::Plain(spec.shape())),
                                   **checkpoint, MatrixFormat::kF32, backend_.get());
  EXPECT_EQ(weights.status().message(),
            "safetensors: tensor model.norm.weight is I32, want F32, BF16 or F16");
}

TEST(ResolvePlanTest, OverrideBeatsConfigBeatsDetection) {
  const Loaded loaded = Make({.cross_layer = {{"preset", "svformer"}}, .trim = false});
  EXPECT_EQ(loaded.Plan()->sources(3, 0).values.layer, 0);
  EXPECT_EQ(*loaded.Plan({{"preset", "plain"}}), SharingPlan::Plain(loaded.spec.shape()));
  EXPECT_EQ(loaded.Plan({{"preset", "cla"}, {"factor", 2}})->sources(3, 0).keys.layer, 2);
  EXPECT_EQ(loaded.Plan({{"preset", "none"}}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ResolvePlanTest, ReadsThePlanOffTheProjections) {
  for (const size_t i : {0U, 1U, 2U, 5U, 7U, 9U}) {
    const auto& [name, cross_layer] = Plans()[i];
    SCOPED_TRACE(name);
    Loaded loaded = Make({.cross_layer = cross_layer});
    const SharingPlan written = loaded.Plan().value();
    loaded.spec.plan = std::nullopt;
    const auto detected = loaded.Plan();
    ASSERT_TRUE(detected.ok()) << detected.status();
    EXPECT_EQ(*detected, written);
  }
  TinyModel model = MakeTinyModel({});
  Remove(model, Projection(0, "v"));
  EXPECT_EQ(Open(model).Plan().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WeightsTest, TakesLearnedMixesFromTheCheckpoint) {
  const Json learnable = {{"preset", "resformer"}, {"mix", "learnable"}, {"layers", {1, 3}}};
  for (const ElementType dtype : {ElementType::kF32, ElementType::kBF16, ElementType::kF16}) {
    const Loaded loaded = Make({.attention = kGrouped, .dtype = dtype, .cross_layer = learnable});
    const auto plan = loaded.Plan();
    ASSERT_TRUE(plan.ok()) << plan.status();
    for (const int32_t layer : {1, 3}) {
      const auto& data =
          loaded.model.Tensor("model.layers." + std::to_string(layer) + ".self_attn.value_mix")
              .data;
      const kvcache::ValueMix expected = {.own = data[0], .first = data[1]};
      EXPECT_NE(expected, (kvcache::ValueMix{.own = 0.5F, .first = 0.5F}));
      EXPECT_EQ(plan->mix(layer, 0), expected);
      EXPECT_EQ(plan->mix(layer, 1), expected);
      EXPECT_TRUE(plan->learnable_mix(layer));
    }
    EXPECT_FALSE(plan->mix(2, 0).has_value());
    const auto weights = Load(loaded);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_THAT(weights->unused, IsEmpty());
  }
}

TEST(ResolvePlanTest, RefusesMixesThatAreNotTwoFiniteNumbers) {
  const std::string name = "model.layers.2.self_attn.value_mix";
  const auto error = [&](const std::function<void(TinyModel&)>& change) {
    TinyModel model =
        MakeTinyModel({.cross_layer = {{"preset", "resformer"}, {"mix", "learnable"}}});
    change(model);
    const auto plan = Open(model).Plan();
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(plan.status().message());
  };
  EXPECT_EQ(error([&](TinyModel& model) { Remove(model, name); }),
            name + ": missing, expected [2] (the plan's mix is learnable)");
  EXPECT_EQ(error([&](TinyModel& model) {
              Mutable(model, name).shape = {2, 1};
            }),
            name + ": expected [2], found [2, 1]");
  EXPECT_EQ(error([&](TinyModel& model) {
              Mutable(model, name).data = {0.5F, std::numeric_limits<float>::quiet_NaN()};
            }),
            name + ": not finite: [0.5, nan]");
}

// Loads everything from a folder on disk, as the server does.
void LoadsFromDisk(const std::filesystem::path& dir, kernels::Backend* backend,
                   int64_t expected_parameters = 0) {
  const auto spec = ReadModelSpec(HfDirectory(dir));
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto checkpoint = Checkpoint::Open(dir);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto plan = ResolvePlan(*spec, **checkpoint, std::nullopt);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto weights = LoadWeights(
      *spec, TensorsOf(*spec, *plan), **checkpoint,
      spec->dtype == ElementType::kF32 ? MatrixFormat::kF32 : MatrixFormat::kBF16, backend);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT(weights->unused, IsEmpty());
  if (expected_parameters != 0) {
    EXPECT_EQ(weights->parameters, expected_parameters);
  }
}

TEST_F(WeightsTest, LoadsATinyModelFromDisk) {
  for (const auto& [name, cross_layer] : Plans()) {
    SCOPED_TRACE(name);
    const auto dir = WriteModelDir(MakeTinyModel({.cross_layer = cross_layer}),
                                   std::filesystem::temp_directory_path());
    LoadsFromDisk(dir, backend_.get());
    std::filesystem::remove_all(dir);
  }
}

TEST_F(WeightsTest, LoadsAPublishedCheckpoint) {
  const char* data = std::getenv("STRATA_TEST_DATA");
  const std::filesystem::path root =
      data != nullptr ? std::filesystem::path(data)
                      : std::filesystem::path(STRATA_SOURCE_DIR) / "../shared/data";
  const auto dir = root / "models/tinystories-656k";
  if (!std::filesystem::exists(dir)) {
    GTEST_SKIP() << dir << " is not there; STRATA_TEST_DATA names the folder of test data";
  }
  // One table for both ends, the final norm, and two layers of norms, attention and MLP.
  LoadsFromDisk(dir, backend_.get(),
                2048 * 128 + 128 + 2 * (2 * 128 + 2 * 128 * 128 + 2 * 64 * 128 + 3 * 384 * 128));
}

TEST_F(WeightsTest, LoadsTheShippedModels) {
  const auto root = std::filesystem::path(STRATA_SOURCE_DIR) / "deploy/models";
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    SCOPED_TRACE(entry.path().string());
    LoadsFromDisk(entry.path(), backend_.get());
    ++models;
  }
  EXPECT_GT(models, 0) << root;
}

}  // namespace
}  // namespace strata::engine::weights_test
