#!/usr/bin/env python3
"""What each architecture costs and saves: losses of trained models beside the real engine's figures.

    python3 compare.py --runs runs/seed1 --runs runs/seed2 --bench build/bin/strata-enginebench

Prints a table (Markdown) and draws loss over cache bytes (tests/reference/loss_over_cache.svg).
Losses are read from the training logs under --runs; cache bytes and decode speed are measured now,
with `strata-enginebench` on random weights of the same shape: medians of --rounds rounds over all
models. Needs no package.
"""

import argparse
import json
import os
import statistics
import subprocess

import svg_plot

BUDGET = 64 << 20
CONTEXTS = (512, 4096)
BLOCK = 32  # tokens of the engine's blocks
SEQUENCE = 512  # tokens of those that are counted into the budget
ORDER = ["plain", "resformer", "resformer-identity", "svformer", "reuse-half", "reuse",
         "reuse-partial", "sla", "cla-2", "gqa-2", "svformer-reuse"]
HERE = os.path.dirname(os.path.abspath(__file__))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", action="append", required=True,
                        help="a folder of models with training_log.json; may be given again")
    parser.add_argument("--bench", required=True, help="strata-enginebench")
    parser.add_argument("--rounds", type=int, default=5, help="of measuring (default: %(default)s)")
    parser.add_argument("--plot", default=os.path.join(HERE, "loss_over_cache.svg"))
    return parser.parse_args()


def read_json(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def read_runs(folders):
    """-> {model: [training log]}, by seed, and {model: its config}"""
    logs, configs = {}, {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if os.path.exists(os.path.join(folder, name, "training_log.json")):
                logs.setdefault(name, []).append(read_json(folder, name, "training_log.json"))
                configs[name] = read_json(folder, name, "config.json")
    return {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in logs.items()}, configs


def measure(bench, config, context):
    grouped = config["num_key_value_heads"] != config["num_attention_heads"]
    command = [bench, "--shape", "reference-2m-gqa" if grouped else "reference-2m",
               "--plan", json.dumps(config.get("cross_layer", {"preset": "plain"})),
               "--prompt", str(context), "--gen", "64", "--batch", "1", "--decode-only", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]


def losses_of(runs):
    return [run["validation"]["nats_per_token"] for run in runs]


def measure_all(bench, configs, rounds):
    """-> {model: (cache bytes a token, median decode tokens/s at each context)}"""
    speeds = {name: {context: [] for context in CONTEXTS} for name in configs}
    cache_bytes = {}
    for _ in range(rounds):
        for name, config in configs.items():
            for context in CONTEXTS:
                seen = measure(bench, config, context)
                speeds[name][context].append(seen["decode_tokens_per_second"])
                cache_bytes[name] = seen["cache_bytes_per_token"]
    return {name: (cache_bytes[name], [statistics.median(speeds[name][c]) for c in CONTEXTS])
            for name in configs}


def row_of(name, runs, cache_bytes, speeds):
    tokens = int(BUDGET // (cache_bytes * BLOCK)) * BLOCK
    losses = losses_of(runs)
    return {"name": name, "losses": losses, "parameters": runs[0]["parameters"],
            "bytes": cache_bytes, "decode": speeds, "longest": tokens,
            "sequences": tokens // SEQUENCE}


def table(rows):
    print("| model | loss, nats a token | parameters | cache bytes a token | decode tokens/s at 512 | "
          "at 4,096 | longest context in 64 MiB | sequences of 512 in 64 MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        losses = " and ".join(f"{loss:.3f}" for loss in row["losses"])
        print(f"| {row['name']} | {losses} | {row['parameters']:,} | {row['bytes']:,.0f} | "
              f"{row['decode'][0]:,.0f} | {row['decode'][1]:,.0f} | {row['longest']:,} | "
              f"{row['sequences']:,} |")


def main():
    args = parse_arguments()
    logs, configs = read_runs(args.runs)
    measured = measure_all(args.bench, configs, args.rounds)
    rows = [row_of(name, logs[name], *measured[name]) for name in ORDER if name in logs]
    table(rows)
    spread = max((max(row["losses"]) - min(row["losses"]) for row in rows), default=0)
    print(f"\nLargest difference between two seeds of one model: {spread:.3f} nats.")
    points = [(row["name"], row["bytes"], row["losses"]) for row in rows]
    svg_plot.scatter(args.plot, points, "cache bytes a token", "validation loss, nats a token")


if __name__ == "__main__":
    main()
