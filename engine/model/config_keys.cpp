#include "engine/model/config_keys.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// Keys of other models that may stand in any config, with the values by which they announce no
// difference from one whose norms are RMSNorm before each block, whose rotation turns whole heads,
// and which multiplies nothing.
struct Harmless {
  std::vector<Json> values;
  std::vector<std::string_view> keys;
};

const std::vector<Harmless>& KeysOfOthers() {
  static const std::vector<Harmless> keys = {
      {{"silu", "swish"}, {"hidden_activation", "activation_function", "mlp_hidden_act"}},
      {{"rmsnorm", "rms_norm", "RMSNorm"}, {"norm_type", "layer_norm_type"}},
      {{"rope", "rotary"}, {"position_embedding_type"}},
      {{true},
       {"pre_norm", "do_layer_norm_before", "use_rope", "is_causal", "use_causal_mask",
        "scale_attn_weights"}},
      {{1},
       {"rotary_pct",
        "rope_pct",
        "rotary_percent",
        "rope_percent",
        "rope_ratio",
        "rope_condense_ratio",
        "attention_value_scale",
        "embedding_multiplier",
        "residual_multiplier",
        "lm_head_multiplier",
        "key_multiplier",
        "attention_in_multiplier",
        "attention_out_multiplier",
        "residual_scale",
        "logits_scaling",
        "logit_scale",
        "scale_emb",
        "embedding_scale",
        "total_ut_steps",
        "num_loops",
        "loop_num_passes",
        "n_recurrent_loops"}},
      {{Json::array({1, 1})}, {"mlp_multipliers"}},
      // More than one slice sums the same products in another order.
      {{0, 1}, {"pretraining_tp"}},
      // Numbers for which 0 is a value.
      {{},
       {"attention_multiplier", "query_pre_attn_scalar", "attention_scale", "attn_scale",
        "softmax_scale", "scale_depth", "dim_model_base", "sliding_window_size",
        "attention_window_size", "attention_chunk_size"}},
  };
  return keys;
}

// Keys that change no answer in any model. Most are attributes of transformers'
// PretrainedConfig (configuration_utils.py), some are of training.
constexpr char kIgnored[] =
    "_attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled "
    "_from_model_config _name_or_path attention_dropout attn_dropout attn_implementation "
    "attn_pdrop auto_map bad_words_ids begin_suppress_tokens bos_token_id "
    "chunk_size_feed_forward classifier_dropout cross_attention_hidden_size "
    "decoder_start_token_id diversity_penalty do_sample dropout early_stopping eod_token_id "
    "embd_pdrop embedding_dropout encoder_no_repeat_ngram_size "
    "exponential_decay_length_penalty ffn_dropout finetuning_task forced_bos_token_id "
    "forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob id2label "
    "initializer_cutoff_factor initializer_factor initializer_range initializer_std "
    "is_decoder is_llama_config label2id length_penalty loss_type max_length max_new_tokens "
    "max_sequence_length max_window_layers min_length model_max_length neftune_noise_alpha "
    "no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences "
    "output_attentions output_hidden_states output_past output_router_logits output_scores "
    "pad_token pad_token_id padding_idx prefix problem_type pruned_heads "
    "remove_invalid_values repetition_penalty resid_pdrop residual_dropout return_dict "
    "return_dict_in_generate seed sep_token_id seq_length special_dropout_mask "
    "suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder "
    "tokenizer_class tokenizer_model_max_length tokenizer_padding_side tokenizer_type top_k "
    "top_p torchscript transformers.js_config transformers_version typical_p unk_token_id "
    "unsloth_fixed unsloth_version use_bfloat16 use_cache use_flash_attention use_flash_attn "
    "use_fused_mlp use_fused_rms_norm use_fused_rope use_return_dict";

bool AsksFor(const Json& value) {
  return !AsksForNothing(value) && value != Json(false) && value != Json(0) && value != Json("");
}

}  // namespace

void RefuseUnknownKeys(JsonReader& config, std::string_view architecture,
                       const std::string& known) {
  if (!config.value().is_object()) return;
  std::set<std::string> passed = absl::StrSplit(known, ' ');
  for (const absl::string_view key : absl::StrSplit(kIgnored, ' ')) passed.emplace(key);
  for (const auto& [key, value] : config.value().items()) {
    const std::string_view name = key;
    if (value.is_null()) continue;
    if (passed.contains(key)) continue;
    const auto other = std::ranges::find_if(KeysOfOthers(), [name](const Harmless& group) {
      return std::ranges::find(group.keys, name) != group.keys.end();
    });
    const bool harmless = other == KeysOfOthers().end()
                              ? !AsksFor(value)
                              : std::ranges::find(other->values, value) != other->values.end();
    if (harmless) continue;
    config.FailNotBuilt(key, ": ", architecture,
                        " has no such key; take it out if it changes no answer");
  }
}

void CheckAllAre(JsonReader& config, std::string_view key, const Json& kind) {
  if (!config.Has(key)) return;
  const Json& list = config.Value(key);
  const bool all =
      list.is_array() && std::ranges::all_of(list, [&](const Json& item) { return item == kind; });
  if (!all) config.FailNotBuilt(key, ", only layers that are all ", kind);
}

void RefuseOtherNames(JsonReader& config, std::string_view key,
                      std::initializer_list<std::string_view> others) {
  if (config.Has(key)) return;
  for (const std::string_view other : others) {
    if (config.Has(other)) {
      config.Fail(other, DescribeJson(config.Value(other)), " but ", key, " is missing");
    }
  }
}

}  // namespace strata::engine
