"""Reference decoder for transformers that share keys, values or scores across layers.

A Llama-style decoder (RMSNorm, rotary positions in the rotate-half convention, SwiGLU, tied
embeddings, no biases); what differs between architectures is in attention.py. `state_dict()` has
exactly the tensors of a shipped checkpoint, under Hugging Face Llama's names.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

import attention


@dataclasses.dataclass
class Config:
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 32
    vocab_size: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 512
    cross_layer: object = None  # as in config.json: None, a preset, or a list of presets

    @classmethod
    def from_json(cls, values):
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in names})

    def presets(self):
        """{preset name: its options}"""
        listed = self.cross_layer or []
        listed = [listed] if isinstance(listed, dict) else listed
        return {preset["preset"]: preset for preset in listed}


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class FeedForward(nn.Module):
    """SwiGLU"""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention.CLASSES[tuple(config.presets())](config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x, earlier):
        attended, handed_on = self.self_attn(self.input_layernorm(x), earlier)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), handed_on


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids):
        x, earlier = self.embed_tokens(ids), []
        for layer in self.layers:
            x, handed_on = layer(x, earlier)
            earlier.append(handed_on)
        return self.norm(x)


class Decoder(nn.Module):
    """ids [B, T] -> logits [B, T, vocab]. `fast` (see attention.Attention) needs torch 2."""

    def __init__(self, config, fast=False):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        for layer in self.model.layers:
            layer.self_attn.fast = fast and hasattr(F, "scaled_dot_product_attention")

    def forward(self, ids):
        return F.linear(self.model(ids), self.model.embed_tokens.weight)
