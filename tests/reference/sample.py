#!/usr/bin/env python3
"""Prints text sampled from a shipped model: a quick look at its quality.

    python3 sample.py deploy/models/svformer --prompt "Once upon a time"
"""

import argparse

import torch

import bpe
import export


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    model = export.read_model(args.folder, torch.float32)
    tokenizer = bpe.Tokenizer.load(args.folder)
    ids = tokenizer.encode(args.prompt)
    for _ in range(args.tokens):
        logits = model(torch.tensor([ids]))[0, -1]
        ids.append(torch.multinomial((logits / args.temperature).softmax(dim=-1), 1).item())
    print(tokenizer.decode(ids))


if __name__ == "__main__":
    main()
