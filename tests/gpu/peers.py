#!/usr/bin/env python3
"""Decode and prompt attention beside PyTorch's scaled-dot-product attention on contiguous tensors.

    tests/gpu/peers.py --bench build/bin/strata-devicebench

Runs the bench first (its own process has the device to itself), then PyTorch on the same shapes, and
prints both with their ratio. Exits with 1 where decode attention is slower than PyTorch's, or prompt
attention reaches less than 60 % of its flash attention. Needs PyTorch with CUDA; without it exits 77.
"""

import argparse
import json
import subprocess
import sys

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
CONTEXT, BATCH, PROMPT = 8192, 16, 2048
LEAST_RATIO = {"decode attention": 1.0, "prompt attention": 0.6}


def seconds_of(torch, operation):
    """The median of five runs of twenty calls each, by the device's own clock."""
    operation()
    torch.cuda.synchronize()
    runs = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(20):
            operation()
        end.record()
        torch.cuda.synchronize()
        runs.append(begin.elapsed_time(end) / 20e3)
    return sorted(runs)[2]


def peer_seconds(torch):
    """Seconds of PyTorch's attention for each operation of the bench."""
    attention = torch.nn.functional.scaled_dot_product_attention

    def tensor(batch, heads, length):
        return torch.randn(batch, heads, length, HEAD_DIM, device="cuda", dtype=torch.bfloat16)

    q = tensor(BATCH, HEADS, 1)
    k, v = tensor(BATCH, KV_HEADS, CONTEXT), tensor(BATCH, KV_HEADS, CONTEXT)
    decode = seconds_of(torch, lambda: attention(q, k, v, enable_gqa=True))
    q, k, v = tensor(1, HEADS, PROMPT), tensor(1, KV_HEADS, PROMPT), tensor(1, KV_HEADS, PROMPT)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        prompt = seconds_of(torch, lambda: attention(q, k, v, is_causal=True, enable_gqa=True))
    return {"decode attention": decode, "prompt attention": prompt}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="strata-devicebench")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: no PyTorch here")
        return 77
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no device")
        return 77

    shape = {"--heads": HEADS, "--kv-heads": KV_HEADS, "--head-dim": HEAD_DIM,
             "--context": CONTEXT, "--batch": BATCH, "--prompt": PROMPT}
    command = [arguments.bench, "--device", "cuda"]
    for option, value in shape.items():
        command += [option, str(value)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    own = {line["operation"]: line["microseconds"] * 1e-6
           for line in map(json.loads, lines) if "microseconds" in line}

    enough = True
    summary = []
    for name, peer in peer_seconds(torch).items():
        ratio = peer / own[name]
        enough = enough and ratio >= LEAST_RATIO[name]
        print(f"{name}: {own[name] * 1e6:.1f} us, PyTorch {torch.__version__} {peer * 1e6:.1f} us")
        summary.append(f"{name} {ratio:.2f} of PyTorch's speed (at least {LEAST_RATIO[name]})")
    print("; ".join(summary))
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
