#!/usr/bin/env python3
"""Golden outputs of the shipped models: float64, explicit equations, weights as shipped.

    python3 golden.py            writes tests/golden/<model>.safetensors for every shipped model
    python3 golden.py --check    computes them again and compares

For each prompt K a file holds `prompt_ids.K` I64 [P], `logits.K` F32 [vocab] at the last prompt
position, `greedy_ids.K` I64 [64], `greedy_margins.K` F32 [64] (the best logit minus the second: two
logits that are each off by less than half of it can't swap), and in the metadata `prompt.K` and
`text.K`. End-of-text doesn't end a greedy run.
"""

import argparse
import os
import sys

import torch

import bpe
import export
import tensor_file

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# Three of these prompts are kept, always the long one: those whose first SETTLED greedy tokens have
# the largest margins. 8 more bits of rounding (a bf16 cache) must not swap the best two tokens
# before that.
LONG_PROMPT = (
    "The old clockmaker set his lamp upon the window sill and waited, for he had promised the "
    "children that the snow would bring his brother home before morning.")
SHORT_PROMPTS = [
    "Once upon a time",
    "\"Where are you going?\" asked the girl.\n\n\"To the sea,\" said",
    "It was a dark night, and",
    "The rabbit looked at the fox and",
    "In the spring of that year",
    "There was once a king who",
    "\"I do not know,\" she",
    "He took the letter from the table and",
    "The door was open, and",
    "When the bell had rung twice, the",
]
SETTLED = 32
GREEDY_TOKENS = 64


def greedy(model, prompt_ids):
    """-> logits at the last prompt position, the greedy ids, and their margins"""
    ids, first, margins = prompt_ids[None], None, []
    for _ in range(GREEDY_TOKENS):
        logits = model(ids)[0, -1]
        first = logits if first is None else first
        best = logits.topk(2)
        margins.append(best.values[0] - best.values[1])
        ids = torch.cat([ids, best.indices[None, :1]], dim=1)
    return first, ids[0, len(prompt_ids):], torch.stack(margins)


def replay(model, prompt_ids, greedy_ids):
    """The same from one pass: as long as the stored ids are right, the next one can be checked."""
    logits = model(torch.cat([prompt_ids, greedy_ids[:-1]])[None])[0, len(prompt_ids) - 1 :]
    best = logits.topk(2)
    return logits[0], best.indices[:, 0], best.values[:, 0] - best.values[:, 1]


def settled_runs(model, tokenizer):
    """-> three (prompt, its greedy run)"""
    def run(prompt):
        return prompt, greedy(model, torch.tensor(tokenizer.encode(prompt)))

    def doubt(prompt_and_run):
        return -prompt_and_run[1][2][:SETTLED].min().item()

    return sorted(map(run, SHORT_PROMPTS), key=doubt)[:2] + [run(LONG_PROMPT)]


@torch.no_grad()
def compute(folder, stored=None):
    """-> tensors and metadata of one model; with `stored` tensors by replaying their greedy ids"""
    model, tokenizer = export.read_model(folder), bpe.Tokenizer.load(folder)
    tensors, metadata = {}, {}
    if stored is None:
        runs = settled_runs(model, tokenizer)
    else:
        runs = [(tokenizer.decode(stored[f"prompt_ids.{k}"]),
                 replay(model, stored[f"prompt_ids.{k}"], stored[f"greedy_ids.{k}"]))
                for k in range(3)]
    for k, (prompt, (logits, greedy_ids, margins)) in enumerate(runs):
        prompt_ids = torch.tensor(tokenizer.encode(prompt))
        tensors[f"prompt_ids.{k}"] = prompt_ids
        tensors[f"logits.{k}"] = logits.float()
        tensors[f"greedy_ids.{k}"] = greedy_ids
        tensors[f"greedy_margins.{k}"] = margins.float()
        metadata[f"prompt.{k}"] = prompt
        metadata[f"text.{k}"] = tokenizer.decode(greedy_ids)
    return tensors, metadata


def differences(folder, path):
    """One line for each tensor or text that isn't as stored."""
    stored, stored_metadata = tensor_file.read(path)
    tensors, metadata = compute(folder, stored)
    found = [f"{path}: {key} differs" for key, text in metadata.items()
             if text != stored_metadata.get(key)]
    for name, tensor in tensors.items():
        # float64 sums in another order differ by about 1e-14, so a stored value can at most round
        # to the other neighbour: one unit in the last place of a float, 2^-23 of its size. A margin
        # is a difference of logits of size up to about 30 and inherits their absolute error.
        same = name in stored and torch.allclose(
            tensor.double(), stored[name].double(), rtol=2.0**-23, atol=1e-12)
        if not same:
            found.append(f"{path}: {name} differs")
    return found


def shipped_models(models):
    """Names of the models in a folder that have weights."""
    if not os.path.isdir(models):
        return []
    return sorted(name for name in os.listdir(models)
                  if os.path.exists(os.path.join(models, name, "model.safetensors")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="models; all that ship if none is named")
    parser.add_argument("--models", default=os.path.join(ROOT, "deploy", "models"))
    parser.add_argument("--out", default=os.path.join(ROOT, "tests", "golden"))
    parser.add_argument("--check", action="store_true", help="compare with the stored files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failures = []
    for name in args.names or shipped_models(args.models):
        folder = os.path.join(args.models, name)
        path = os.path.join(args.out, f"{name}.safetensors")
        if args.check:
            failures += differences(folder, path)
            continue
        tensors, metadata = compute(folder)
        os.makedirs(args.out, exist_ok=True)
        tensor_file.write(path, tensors, metadata)
        for k in range(3):
            margin = tensors[f"greedy_margins.{k}"].min().item()
            print(f"{name}.{k}: smallest margin {margin:.5f}: {metadata[f'text.{k}']!r}")
    print("\n".join(failures) or "as stored" if args.check else "written")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
