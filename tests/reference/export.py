"""Shipped model folders: config.json, bf16 weights, tokenizer and generation_config.json."""

import dataclasses
import json
import os

import torch

import models
import tensor_file

SVFORMER = {"preset": "svformer", "anchors": [0]}
REUSE = {"preset": "reuse", "compute_layers": [0, 4]}

# Changes of each model to models.Config. First the shipped models, then models only for comparison.
SHIPPED = {
    "svformer": {"cross_layer": SVFORMER},
    "plain": {},
    "reuse": {"cross_layer": REUSE},
    "svformer-reuse": {"cross_layer": [SVFORMER, REUSE]},
    "sla": {"cross_layer": {"preset": "sla", "skip_layers": 4, "skip_heads": 2}},
    "resformer": {"cross_layer": {"preset": "resformer", "mix": "learnable"}},
}
COMPARED = {
    "resformer-identity": {"cross_layer": {"preset": "resformer", "mix": "identity"}},
    "reuse-half": {"cross_layer": {"preset": "reuse", "compute_layers": [0, 2, 4, 6]}},
    "reuse-partial": {"cross_layer": {**REUSE, "heads": 2}},
    "cla-2": {"cross_layer": {"preset": "cla", "factor": 2}},
    "gqa-2": {"num_key_value_heads": 2},
}
MODELS = {**SHIPPED, **COMPARED}


def write_json(path, content):
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    os.replace(path + ".tmp", path)


def write_model(folder, model, tokenizer):
    os.makedirs(folder, exist_ok=True)
    values = dataclasses.asdict(model.config)
    cross_layer = values.pop("cross_layer")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **values,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 0,
        "eos_token_id": 0, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "rope_scaling": None,
    }
    if cross_layer is not None:
        config["cross_layer"] = cross_layer
    write_json(os.path.join(folder, "config.json"), config)
    write_json(os.path.join(folder, "generation_config.json"),
               {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.8})
    tokenizer.save(folder, model.config.max_position_embeddings)
    # .to(bfloat16) rounds to nearest, ties to even.
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    tensor_file.write(os.path.join(folder, "model.safetensors"), weights, {"format": "pt"})


def read_model(folder, dtype=torch.float64):
    """The model as shipped, on the explicit path."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        model = models.Decoder(models.Config.from_json(json.load(file)))
    weights, _ = tensor_file.read(os.path.join(folder, "model.safetensors"))
    model.load_state_dict(weights)
    # After loading, not before: a weight is its bf16 value exactly, in float64 as in float32.
    return model.to(dtype).eval()
