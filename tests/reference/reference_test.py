#!/usr/bin/env python3
"""Tests of the reference: identities between architectures, the two attention paths, the goldens.

    python3 tests/reference/reference_test.py
"""

import dataclasses
import json
import os
import sys
import tempfile
import unittest

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)  # ctest's, for skipped

import bpe
import corpus
import export
import golden
import models
import optimizer
import tensor_file

TINY = models.Config(hidden_size=24, intermediate_size=40, num_hidden_layers=8,
                     num_attention_heads=4, num_key_value_heads=4, head_dim=6, vocab_size=50)
GQA = dataclasses.replace(TINY, num_key_value_heads=2)

VARIANTS = {
    "plain": None,
    "svformer": {"preset": "svformer"},
    "svformer anchors": {"preset": "svformer", "anchors": [0, 3]},
    "resformer identity": {"preset": "resformer", "mix": "identity"},
    "resformer constant": {"preset": "resformer", "mix": "constant", "own": 1, "first": 2},
    "resformer sparse": {"preset": "resformer", "mix": "identity", "layers": [5, 6, 7]},
    "resformer learnable": {"preset": "resformer", "mix": "learnable"},
    "reuse": {"preset": "reuse", "compute_layers": [0, 4]},
    "reuse partial": {"preset": "reuse", "compute_layers": [0, 4], "heads": 3},
    "sla": {"preset": "sla", "skip_layers": 3, "skip_heads": 2},
    "cla": {"preset": "cla", "factor": 2},
    "svformer reuse": [{"preset": "svformer"}, {"preset": "reuse", "compute_layers": [0, 4]}],
}


def build(config, cross_layer, seed=1):
    """A model in float64 whose weights are large enough that every part shows in the logits."""
    torch.manual_seed(seed)
    model = models.Decoder(dataclasses.replace(config, cross_layer=cross_layer)).double()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.4) if param.ndim == 2 else torch.nn.init.uniform_(param)
    return model


def set_fast(model, fast):
    for layer in model.model.layers:
        layer.self_attn.fast = fast


def some_ids(batch=2, length=19):
    return torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(3))


def shapes(model, layer):
    prefix = f"model.layers.{layer}.self_attn."
    return {name[len(prefix):].replace("_proj.weight", ""): list(value.shape)
            for name, value in model.state_dict().items() if name.startswith(prefix)}


class ArchitectureTest(unittest.TestCase):
    def assert_same_as_plain(self, cross_layer, config=TINY):
        plain, other = build(config, None), build(config, cross_layer, seed=2)
        missing, unexpected = other.load_state_dict(plain.state_dict(), strict=False)
        self.assertFalse(unexpected)
        self.assertFalse(missing)
        # The same operations in the same order, so the same bits.
        self.assertTrue(torch.equal(plain(some_ids()), other(some_ids())))

    def test_degenerate_cases_are_the_plain_model(self):
        everywhere = list(range(8))
        for cross_layer in (
                {"preset": "svformer", "anchors": everywhere},
                {"preset": "resformer", "mix": "constant", "own": 1, "first": 0},
                {"preset": "resformer", "mix": "identity", "layers": []},
                {"preset": "reuse", "compute_layers": everywhere},
                {"preset": "reuse", "compute_layers": [0], "heads": 0},
                {"preset": "sla", "skip_layers": 3, "skip_heads": 0},
                {"preset": "sla", "skip_layers": 8, "skip_heads": 4},
                {"preset": "cla", "factor": 1},
                [{"preset": "svformer", "anchors": everywhere},
                 {"preset": "reuse", "compute_layers": everywhere}]):
            for config in (TINY, GQA):
                with self.subTest(cross_layer=cross_layer, kv_heads=config.num_key_value_heads):
                    self.assert_same_as_plain(cross_layer, config)

    def test_learnable_mix_of_one_and_zero_is_the_plain_model(self):
        plain, other = build(TINY, None), build(TINY, VARIANTS["resformer learnable"])
        other.load_state_dict(plain.state_dict(), strict=False)
        for layer in other.model.layers[1:]:
            layer.self_attn.value_mix.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
        self.assertTrue(torch.equal(plain(some_ids()), other(some_ids())))

    def test_reusing_all_heads_is_full_reuse(self):
        full = build(TINY, VARIANTS["reuse"])
        partial = build(TINY, {**VARIANTS["reuse"], "heads": 4}, seed=2)
        partial.load_state_dict(full.state_dict())
        self.assertTrue(torch.equal(full(some_ids()), partial(some_ids())))

    def test_partial_reuse_hands_on_computed_heads_first(self):
        # H = 4, R = 3: layer 1 computes head 3 as "1.3" and hands on (1.3, 0.0, 0.1, 0.2), so layer
        # 2's heads 0..2 are (1.3, 0.0, 0.1) and its own head 3; layer 3's heads follow from that.
        model, seen = build(TINY, VARIANTS["reuse partial"]), []
        for layer in model.model.layers:
            inner = layer.self_attn.mix
            layer.self_attn.mix = lambda scores, value, inner=inner: (
                seen.append(scores), inner(scores, value))[1]
        model(some_ids())
        expected = {1: [(0, 0), (0, 1), (0, 2)], 2: [(1, 3), (0, 0), (0, 1)],
                    3: [(2, 3), (1, 3), (0, 0)], 5: [(4, 0), (4, 1), (4, 2)]}
        for layer, sources in expected.items():
            for head, (m, source_head) in enumerate(sources):
                self.assertTrue(torch.equal(seen[layer][:, head], seen[m][:, source_head]))

    def test_skipping_heads_read_the_source_layers_own_projection(self):
        # n_l = 2: layers 4 and 6 both skip, but layer 6 must see layer 4's own keys and values,
        # never those of layer 2 that layer 4 itself reads. So with layer 4's rows for its skip
        # heads changed, layer 4's output stays and layer 6's moves.
        config = dataclasses.replace(TINY, num_hidden_layers=7)
        model, outputs = build(config, {"preset": "sla", "skip_layers": 2, "skip_heads": 1}), []
        for layer in model.model.layers:
            layer.self_attn.register_forward_hook(lambda m, i, out: outputs.append(out[0].detach()))
        model(some_ids())
        before, outputs[:] = list(outputs), []
        model.model.layers[4].self_attn.v_proj.weight.data[-6:] += 1
        model(some_ids())
        self.assertEqual([torch.equal(a, b) for a, b in zip(before, outputs)], [True] * 6 + [False])

    def test_fast_path_is_the_explicit_path(self):
        for name, cross_layer in VARIANTS.items():
            for config in (TINY, GQA):
                with self.subTest(name=name, kv_heads=config.num_key_value_heads):
                    model = build(config, cross_layer)
                    explicit = model(some_ids())
                    set_fast(model, hasattr(torch.nn.functional, "scaled_dot_product_attention"))
                    # Another order of the same sums: 1e-16 each, logits of some tens.
                    torch.testing.assert_close(model(some_ids()), explicit, rtol=1e-9, atol=1e-9)

    def test_no_token_sees_a_later_one(self):
        for name, cross_layer in VARIANTS.items():
            with self.subTest(name=name):
                model, ids = build(GQA, cross_layer), some_ids()
                changed = ids.clone()
                changed[:, 11:] = (changed[:, 11:] + 1) % 50
                before, after = model(ids), model(changed)
                torch.testing.assert_close(before[:, :11], after[:, :11], rtol=1e-12, atol=1e-12)
                self.assertGreater((before[:, 11:] - after[:, 11:]).abs().min(), 0)

    def test_projections_nobody_needs_do_not_exist(self):
        whole, half = [24, 24], [12, 24]
        plain = {"q": whole, "k": whole, "v": whole, "o": whole}

        def without(*names):
            return {name: shape for name, shape in plain.items() if name not in names}

        sla = {"preset": "sla", "skip_layers": 4, "skip_heads": 2}
        one = {"q": [6, 24], "k": [6, 24], "v": whole, "o": whole}
        for cross_layer, layer, expected in (
                (VARIANTS["svformer"], 0, plain), (VARIANTS["svformer"], 1, without("v")),
                (VARIANTS["svformer anchors"], 3, plain),
                (VARIANTS["reuse"], 4, plain), (VARIANTS["reuse"], 5, without("q", "k")),
                (VARIANTS["svformer reuse"], 4, without("v")),
                (VARIANTS["svformer reuse"], 5, without("q", "k", "v")),
                (VARIANTS["reuse partial"], 1, one), (VARIANTS["cla"], 3, without("k", "v")),
                (sla, 3, plain), (sla, 4, {**plain, "k": half, "v": half})):
            with self.subTest(cross_layer=cross_layer, layer=layer):
                self.assertEqual(shapes(build(TINY, cross_layer), layer), expected)
        # With two kv heads, query head 3 alone computes and reads kv head 1.
        self.assertEqual(shapes(build(GQA, VARIANTS["reuse partial"]), 1)["k"], [6, 24])

    def test_skip_layer_cache_is_what_the_paper_promises(self):
        config = dataclasses.replace(TINY, num_hidden_layers=12, hidden_size=72,
                                     num_attention_heads=12, num_key_value_heads=12)
        model = build(config, {"preset": "sla", "skip_layers": 9, "skip_heads": 9})
        rows = sum(shapes(model, layer)["k"][0] for layer in range(12))
        self.assertEqual(1 - rows / (12 * 72), 0.1875)


class PartsTest(unittest.TestCase):
    def test_tokenizer_gives_its_vectors_and_the_text_back(self):
        path = os.path.join(golden.ROOT, "tests", "golden", "tokenizer_vectors.json")
        folder = os.path.join(golden.ROOT, "deploy", "models", "svformer")
        tokenizer = bpe.Tokenizer.load(folder)
        with open(path, encoding="utf-8") as file:
            for vector in json.load(file):
                self.assertEqual(tokenizer.encode(vector["text"]), vector["ids"])
                self.assertEqual(tokenizer.decode(vector["ids"]), vector["text"])

    def test_trained_tokenizer_merges_the_commonest_pair_first(self):
        tokenizer = bpe.train("aab aab ab ab\n" * 3 + bpe.END_OF_TEXT + "aab", 259)
        self.assertEqual(tokenizer.merges[0], ("a", "b"))
        self.assertEqual(tokenizer.encode(bpe.END_OF_TEXT), [0])
        self.assertEqual(tokenizer.decode(tokenizer.encode("é aab")), "é aab")

    def test_words_are_cut_as_gpt2_cuts_them(self):
        words = ["I", "'ll", " ", " pay", "_", " 3½", " x", "²", "!\x1c", "\n\n", " é", "\u0301"]
        self.assertEqual(bpe.word_pattern().findall("".join(words)), words)

    def test_tensor_file_round_trip_and_rounding_to_even(self):
        halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8], dtype=torch.float32)
        tensors = {"a": halfway.to(torch.bfloat16), "b": torch.arange(3), "c": torch.ones(2, 2)}
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.safetensors")
            tensor_file.write(path, tensors, {"note": "é"})
            with open(path, "rb") as file:
                self.assertEqual(int.from_bytes(file.read(8), "little") % 8, 0)
            read, metadata = tensor_file.read(path)
        self.assertEqual(metadata, {"note": "é"})
        self.assertTrue(all(torch.equal(read[name], tensors[name]) for name in tensors))
        self.assertEqual(read["a"].tolist(), [1.0, 1 + 2**-6])

    def test_batches_depend_on_seed_and_step_alone(self):
        tokens = torch.arange(1000).numpy().astype("uint16")
        ids, targets = corpus.training_batch(tokens, 1, 7, 4, 16)
        again, _ = corpus.training_batch(tokens, 1, 7, 4, 16)
        other, _ = corpus.training_batch(tokens, 1, 8, 4, 16)
        self.assertTrue(torch.equal(ids, again) and torch.equal(ids + 1, targets))
        self.assertFalse(torch.equal(ids, other))

    def test_orthogonalize_brings_singular_values_near_one(self):
        matrices = torch.randn(3, 24, 10, generator=torch.Generator().manual_seed(5))
        values = torch.linalg.svdvals(optimizer.orthogonalize(matrices))
        self.assertTrue(((values > 0.5) & (values < 1.5)).all())


class GoldenTest(unittest.TestCase):
    def test_shipped_models_give_their_goldens(self):
        folder = os.path.join(golden.ROOT, "deploy", "models")
        stored = os.path.join(golden.ROOT, "tests", "golden")
        names = [name for name in golden.shipped_models(folder)
                 if os.path.exists(os.path.join(stored, f"{name}.safetensors"))]
        self.assertTrue(names)
        for name in names:
            with self.subTest(name=name):
                path = os.path.join(stored, f"{name}.safetensors")
                self.assertEqual(golden.differences(os.path.join(folder, name), path), [])
                self.assertIn(name, export.SHIPPED)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
