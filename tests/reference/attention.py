"""The attention of each architecture, written straight from its equation.

Notation: B batch, T tokens, H query heads, G kv heads, d head size; query head h reads kv head
h*G//H. x is the layer's input after its norm. `earlier` is a list with one dict for each layer
below, of the tensors that the layer hands on; `handed_on` is this layer's.

A projection that an architecture doesn't need doesn't exist, and one of which only some heads are
read holds those heads' rows alone, in head order.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def rotary(x, theta):
    """x: [B, heads, T, d] at positions 0..T-1; element i turns with element i + d/2."""
    tokens, size = x.shape[-2:]
    frequency = theta ** (-torch.arange(0, size, 2, dtype=torch.float64, device=x.device) / size)
    angle = torch.arange(tokens, dtype=torch.float64, device=x.device)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Attention(nn.Module):
    """The standard layer: U = softmax(Q K^T / sqrt(d)) V, then o_proj. Others change the sources.

    `scores(...)` gives one entry a query head: the probabilities, [B, H, T, T], which is the
    definition. With `fast` it gives the head's query and key side by side, [B, H, T, 2d], and
    `mix` has torch's fused kernel work out softmax(Q K^T) V: the same algebra, whoever's V it is.
    """

    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.heads, self.kv_heads = (
            layer, config.num_attention_heads, config.num_key_value_heads)
        self.size, self.theta, self.fast = config.head_dim, config.rope_theta, False
        self.hidden = config.hidden_size
        self.build(config)
        self.o_proj = nn.Linear(self.heads * self.size, self.hidden, bias=False)

    def build(self, config):
        self.q_proj = self.projection(self.heads)
        self.k_proj = self.projection(self.kv_heads)
        self.v_proj = self.projection(self.kv_heads)

    def projection(self, heads):
        return nn.Linear(self.hidden, heads * self.size, bias=False)

    def split(self, flat):
        """[B, T, heads*d] -> [B, heads, T, d]"""
        return flat.reshape(*flat.shape[:-1], -1, self.size).transpose(1, 2)

    def per_query_head(self, planes):
        """[B, G, T, d] -> [B, H, T, d]: query head h reads kv head h*G//H."""
        return planes.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def own_scores(self, query, key):
        """query, key: [B, n, T, d], n heads that compute their own scores"""
        if self.fast:
            return torch.cat([query, key], dim=-1)
        logits = query @ key.transpose(-1, -2) / math.sqrt(self.size)
        tokens = logits.shape[-1]
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=logits.device).triu(1)
        return logits.masked_fill(future, float("-inf")).softmax(dim=-1)

    def mix(self, scores, value):
        if not self.fast:
            return scores @ value
        query, key = scores.chunk(2, dim=-1)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    def scores(self, x, earlier, handed_on):
        query = rotary(self.split(self.q_proj(x)), self.theta)
        key = rotary(self.split(self.k_proj(x)), self.theta)
        return self.own_scores(query, self.per_query_head(key))

    def values(self, x, earlier, handed_on):
        """The V that this layer's probabilities are applied to, [B, H, T, d]"""
        return self.per_query_head(self.split(self.v_proj(x)))

    def forward(self, x, earlier):
        """x: [B, T, hidden] after the layer's norm -> the layer's output and what it hands on"""
        handed_on = {}
        scores = self.scores(x, earlier, handed_on)
        out = self.mix(scores, self.values(x, earlier, handed_on))
        return self.o_proj(out.transpose(1, 2).flatten(2)), handed_on


class SVFormer(Attention):
    """U_l = softmax(Q_l K_l^T) V_a: V_a of the latest anchor a <= l. Only anchors have a v_proj."""

    def build(self, config):
        super().build(config)
        anchors = config.presets()["svformer"].get("anchors", [0])
        self.anchor = max(a for a in anchors if a <= self.layer)
        if self.anchor != self.layer:
            del self.v_proj

    def values(self, x, earlier, handed_on):
        if self.anchor != self.layer:
            return earlier[self.anchor]["values"]
        handed_on["values"] = super().values(x, earlier, handed_on)
        return handed_on["values"]


class ResFormer(Attention):
    """V'_l = own_l V_l + first_l V_0 for l >= 1; V_0 is layer 0's projection, before any mix."""

    def build(self, config):
        super().build(config)
        options = config.presets()["resformer"]
        kind = options.get("mix", "identity")
        layers = options.get("layers", range(1, config.num_hidden_layers))
        if self.layer == 0 or self.layer not in layers:
            self.value_mix = None
        elif kind == "learnable":
            self.value_mix = nn.Parameter(torch.tensor([0.5, 0.5]))  # [own, first]
        elif kind == "constant":
            self.value_mix = (options.get("own", 1.0), options.get("first", 2.0))
        else:
            self.value_mix = (0.5, 0.5)

    def values(self, x, earlier, handed_on):
        own = handed_on["values"] = super().values(x, earlier, handed_on)
        if self.value_mix is None:
            return own
        return self.value_mix[0] * own + self.value_mix[1] * earlier[0]["values"]


class Reuse(Attention):
    """U_l = P_m V_l: a reusing layer applies the probabilities of an earlier layer to its own V.

    Every layer hands on a list of H heads' probabilities. A computing layer: its own. A reusing
    layer, with R reused heads: heads [0, R) take the first R of the list from the layer below,
    heads [R, H) compute their own, and the list handed on is the computed, then the reused heads.
    """

    def build(self, config):
        super().build(config)
        options = config.presets()["reuse"]
        computes = self.layer in options["compute_layers"]
        self.reused = 0 if computes else options.get("heads", self.heads)
        self.first_key = self.reused * self.kv_heads // self.heads
        if self.reused == self.heads:
            del self.q_proj, self.k_proj
        elif self.reused:
            self.q_proj = self.projection(self.heads - self.reused)
            self.k_proj = self.projection(self.kv_heads - self.first_key)

    def scores(self, x, earlier, handed_on):
        if self.reused == 0:
            handed_on["scores"] = super().scores(x, earlier, handed_on)
            return handed_on["scores"]
        reused = earlier[-1]["scores"][:, : self.reused]
        if self.reused == self.heads:
            handed_on["scores"] = reused
            return reused
        query = rotary(self.split(self.q_proj(x)), self.theta)
        key = rotary(self.split(self.k_proj(x)), self.theta)
        read = [h * self.kv_heads // self.heads - self.first_key
                for h in range(self.reused, self.heads)]
        computed = self.own_scores(query, key[:, read])
        handed_on["scores"] = torch.cat([computed, reused], dim=1)
        return torch.cat([reused, computed], dim=1)


class SVFormerReuse(SVFormer, Reuse):
    """U_l = P_m V_0: probabilities of the latest computing layer, values of the latest anchor."""


class SkipLayer(Attention):
    """SLA: in layers l >= n_l the last n_h heads read K and V of the same head in layer l - n_l.

    That is always layer l - n_l's own projection, also where the head there reads a third layer. A
    layer projects K and V of those kv heads only that some head, here or n_l layers above, reads.
    """

    def build(self, config):
        super().build(config)
        options = config.presets()["sla"]
        distance, skips = options["skip_layers"], options["skip_heads"]
        near, far = range(self.heads - skips), range(self.heads - skips, self.heads)
        self.source = self.layer - distance if self.layer >= distance else None
        self.own_heads = list(range(self.heads)) if self.source is None else list(near)
        self.far_heads = [] if self.source is None else list(far)
        read = {self.kv_head(h) for h in self.own_heads}
        if self.layer + distance < config.num_hidden_layers:
            read |= {self.kv_head(h) for h in far}
        self.projected = sorted(read)
        self.k_proj = self.projection(len(self.projected))
        self.v_proj = self.projection(len(self.projected))

    def kv_head(self, query_head):
        return query_head * self.kv_heads // self.heads

    def gather(self, name, planes, earlier, handed_on):
        """planes: [B, projected kv heads, T, d] of this layer -> [B, H, T, d]"""
        handed_on[name] = {g: planes[:, i] for i, g in enumerate(self.projected)}
        heads = [handed_on[name][self.kv_head(h)] for h in self.own_heads]
        heads += [earlier[self.source][name][self.kv_head(h)] for h in self.far_heads]
        return torch.stack(heads, dim=1)

    def scores(self, x, earlier, handed_on):
        query = rotary(self.split(self.q_proj(x)), self.theta)
        key = rotary(self.split(self.k_proj(x)), self.theta)
        return self.own_scores(query, self.gather("keys", key, earlier, handed_on))

    def values(self, x, earlier, handed_on):
        return self.gather("values", self.split(self.v_proj(x)), earlier, handed_on)


class CrossLayer(Attention):
    """CLA: K and V of the first layer of each group of `factor` layers."""

    def build(self, config):
        super().build(config)
        self.source = self.layer - self.layer % config.presets()["cla"]["factor"]
        if self.source != self.layer:
            del self.k_proj, self.v_proj

    def scores(self, x, earlier, handed_on):
        if self.source == self.layer:
            key = rotary(self.split(self.k_proj(x)), self.theta)
            handed_on["keys"] = self.per_query_head(key)
        query = rotary(self.split(self.q_proj(x)), self.theta)
        return self.own_scores(query, ([*earlier, handed_on])[self.source]["keys"])

    def values(self, x, earlier, handed_on):
        if self.source == self.layer:
            handed_on["values"] = super().values(x, earlier, handed_on)
        return ([*earlier, handed_on])[self.source]["values"]


# By the names of the presets, in the order in which they apply.
CLASSES = {
    (): Attention, ("svformer",): SVFormer, ("resformer",): ResFormer, ("reuse",): Reuse,
    ("svformer", "reuse"): SVFormerReuse, ("sla",): SkipLayer, ("cla",): CrossLayer,
}
