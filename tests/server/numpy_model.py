"""A shipped model read by NumPy in float64, for the tests of this folder: neither Strata's code nor torch.

A Llama-shaped decoder (RMSNorm, rotary positions in the rotate-half convention, SwiGLU, tied
embeddings, no biases). Of the plans it knows what deploy/models/ has of `svformer` and `reuse`: a layer
applies its own attention probabilities or an earlier layer's to its own values or an earlier layer's.
"""

import json
import pathlib

import numpy as np


def read_safetensors(path):
    """{name: float64 array}; of bf16 and f32."""
    raw = pathlib.Path(path).read_bytes()
    begin = 8 + int.from_bytes(raw[:8], 'little')
    tensors = {}
    for name, entry in json.loads(raw[8:begin]).items():
        if name == '__metadata__':
            continue
        first, last = entry['data_offsets']
        data = raw[begin + first:begin + last]
        if entry['dtype'] == 'BF16':
            bits = np.frombuffer(data, '<u2').astype('<u4') << 16
            values = bits.view('<f4')
        else:
            assert entry['dtype'] == 'F32', entry
            values = np.frombuffer(data, '<f4')
        tensors[name] = values.astype(np.float64).reshape(entry['shape'])
    return tensors


def sources(config):
    """Of each layer: whose values it reads, and whose probabilities."""
    layers = range(config['num_hidden_layers'])
    values, scores = list(layers), list(layers)
    presets = config.get('cross_layer') or []
    for preset in [presets] if isinstance(presets, dict) else presets:
        rest = {key: value for key, value in preset.items() if key != 'preset'}
        if preset['preset'] == 'svformer':
            anchors = rest.pop('anchors', [0])
            values = [max(a for a in anchors if a <= layer) for layer in layers]
        elif preset['preset'] == 'reuse':
            computes = rest.pop('compute_layers')
            scores = [max(c for c in computes if c <= layer) for layer in layers]
        assert not rest and preset['preset'] in ('svformer', 'reuse'), preset
    return values, scores


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


class Model:

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / 'config.json').read_text())
        assert self.config['tie_word_embeddings'] and self.config.get('rope_scaling') is None
        self.value_sources, self.score_sources = sources(self.config)
        # Matrices are [inputs, outputs], which Debian's NumPy multiplies faster.
        self.layers = [{} for _ in range(self.config['num_hidden_layers'])]
        for name, tensor in read_safetensors(folder / 'model.safetensors').items():
            tensor = np.ascontiguousarray(tensor.T)
            if name == 'model.embed_tokens.weight':
                self.table = tensor
            elif name == 'model.norm.weight':
                self.last_norm = tensor
            else:
                _, _, layer, rest = name.split('.', 3)
                self.layers[int(layer)][rest.removesuffix('.weight')] = tensor

    def logprobs(self, ids, last=None):
        """[tokens, vocabulary]: row t is about the token after ids[t]. `last`: of so many rows alone."""
        x, probabilities, values = self.table.T[ids], {}, {}
        for layer, weight in enumerate(self.layers):
            normed = self.norm(x, weight['input_layernorm'])
            x = x + self.attention(layer, weight, normed, probabilities, values)
            normed = self.norm(x, weight['post_attention_layernorm'])
            gate = normed @ weight['mlp.gate_proj']
            gate = gate / (1 + np.exp(-gate)) * (normed @ weight['mlp.up_proj'])
            x = x + gate @ weight['mlp.down_proj']
        logits = self.norm(x[0 if last is None else -last:], self.last_norm) @ self.table
        logits -= logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def next_token(self, ids):
        return int(self.logprobs(ids, last=1).argmax())

    def greedy(self, ids, count):
        """The next `count` tokens."""
        ids = list(ids)
        for _ in range(count):
            ids.append(self.next_token(ids))
        return ids[-count:]

    def norm(self, x, weight):
        return weight * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) +
                                    self.config['rms_norm_eps'])

    def heads(self, x, weight, name):
        """[heads, tokens, head_dim] of a projection."""
        flat = x @ weight[f'self_attn.{name}']
        return flat.reshape(len(x), -1, self.config['head_dim']).transpose(1, 0, 2)

    def rotated(self, x):
        tokens, size = x.shape[-2:]
        frequency = self.config['rope_theta'] ** (-np.arange(0, size, 2) / size)
        angle = np.arange(tokens)[:, None] * frequency
        cos, sin = np.cos(angle), np.sin(angle)
        low, high = x[..., :size // 2], x[..., size // 2:]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def attention(self, layer, weight, x, probabilities, values):
        group = self.config['num_attention_heads'] // self.config['num_key_value_heads']
        if self.value_sources[layer] == layer:
            values[layer] = self.heads(x, weight, 'v_proj').repeat(group, axis=0)
        if self.score_sources[layer] == layer:
            query = self.rotated(self.heads(x, weight, 'q_proj'))
            key = self.rotated(self.heads(x, weight, 'k_proj')).repeat(group, axis=0)
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(self.config['head_dim'])
            scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
            probabilities[layer] = softmax(scores)
        out = probabilities[self.score_sources[layer]] @ values[self.value_sources[layer]]
        return out.transpose(1, 0, 2).reshape(len(x), -1) @ weight['self_attn.o_proj']
