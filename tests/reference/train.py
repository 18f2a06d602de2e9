#!/usr/bin/env python3
"""Trains the models that ship, one after another, and exports them. Can be stopped and run again.

    python3 train.py --text train.txt --valid valid.txt --out deploy/models --models svformer,plain
"""

import argparse
import math
import os
import shlex
import sys
import time

import torch
from torch.nn import functional as F

import corpus
import export
import models
import optimizer

BATCH_TOKENS = 2048
SHORT, LONG = 256, 512  # context: SHORT for most of the run, since attention is half the work
LONG_FROM = 0.8  # ... and LONG for the last fifth, so that every position is trained
CHECKPOINT_SECONDS = 90
CURVE_POINTS = 50


def parse_arguments():
    cache = os.environ.get("XDG_CACHE_HOME") or "/tmp"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", required=True, help="training text, UTF-8")
    parser.add_argument("--valid", required=True, help="validation text, UTF-8")
    parser.add_argument("--out", required=True, help="a folder for each model is made here")
    parser.add_argument("--models", default=",".join(export.SHIPPED),
                        help=f"of {', '.join(export.MODELS)}")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", default=os.path.join(cache, "reference-training"),
                        help="tokens and checkpoints; safe to delete when done")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.005)
    return parser.parse_args()


def build_model(name, seed):
    """Every model starts from the same generator; linear weights are uniform, +-1/sqrt(fan in)."""
    torch.manual_seed(seed)
    model = models.Decoder(models.Config(**export.MODELS[name]), fast=True)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.02)
    for layer in model.model.layers:  # the residual stream starts as the embedding alone
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def loss_of(model, ids, targets):
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate(model, tokens, windows):
    ids, targets = corpus.validation_windows(tokens, windows, LONG)
    losses = [loss_of(model, a, b).item() for a, b in zip(ids.split(8), targets.split(8))]
    return sum(losses) / len(losses)


def bits_per_byte(loss, tokens, windows, tokenizer):
    _, targets = corpus.validation_windows(tokens, windows, LONG)
    size = sum(len(tokenizer.token_bytes[i]) for i in targets.flatten().tolist())
    return loss * targets.numel() / size / math.log(2)


class Run:
    """One model's training: everything a checkpoint holds, and one step after another."""

    def __init__(self, name, args):
        self.model = build_model(name, args.seed)
        self.optimizers = optimizer.build(self.model, args.muon_lr, args.adam_lr)
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.seed, self.steps = args.seed, args.steps
        self.step, self.curve, self.seconds = 0, [], 0.0
        self.path = os.path.join(args.work, f"{name}-{args.steps}-{args.seed}.pt")
        if os.path.exists(self.path):
            self.restore()

    def restore(self):
        state = torch.load(self.path)
        self.model.load_state_dict(state["model"])
        for each, saved in zip(self.optimizers, state["optimizers"]):
            each.load_state_dict(saved)
        self.step, self.curve, self.seconds = state["step"], state["curve"], state["seconds"]

    def save(self):
        """A checkpoint, whole or not at all."""
        torch.save({"model": self.model.state_dict(), "step": self.step, "curve": self.curve,
                    "optimizers": [o.state_dict() for o in self.optimizers],
                    "seconds": self.seconds}, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def advance(self, tokens):
        """-> the training loss of one step"""
        started = time.time()
        length = LONG if self.step >= LONG_FROM * self.steps else SHORT
        batch = corpus.training_batch(tokens, self.seed, self.step, BATCH_TOKENS // length, length)
        loss = loss_of(self.model, *batch)
        loss.backward()
        share = optimizer.schedule(self.step, self.steps)
        for each, rates in zip(self.optimizers, self.rates):
            for group, rate in zip(each.param_groups, rates):
                group["lr"] = rate * share
            each.step()
            each.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.time() - started
        return loss.item()


def progress(name, run, loss, rate):
    filled = 30 * run.step // run.steps
    minutes, seconds = divmod(int((run.steps - run.step) * BATCH_TOKENS / rate), 60)
    return (f"{name:15s} [{'#' * filled}{'.' * (30 - filled)}] {run.step}/{run.steps}  "
            f"loss {loss:.3f}  {rate:6.0f} tokens/s  ETA {minutes}:{seconds:02d} ")


def train(name, args, train_tokens, valid_tokens):
    run = Run(name, args)
    report_every = max(1, args.steps // CURVE_POINTS)
    first_step, losses = run.step, []
    saved_at = shown_at = started = time.time()
    while run.step < args.steps:
        losses.append(run.advance(train_tokens))
        loss, now = sum(losses) / len(losses), time.time()
        rate = (run.step - first_step) * BATCH_TOKENS / (now - started)
        if now - shown_at > 5:
            print(progress(name, run, loss, rate), end="\r", flush=True)
            shown_at = now
        done = run.step == args.steps
        if run.step % report_every == 0 or done:
            point = {"step": run.step, "train": round(loss, 4)}
            if run.step % (5 * report_every) == 0 or done:
                point["valid"] = round(evaluate(run.model, valid_tokens, 32), 4)
                print(progress(name, run, loss, rate), f"validation {point['valid']}", flush=True)
            run.curve.append(point)
            losses.clear()
        if now - saved_at > CHECKPOINT_SECONDS or done:
            run.save()
            saved_at = now
    return run


def finish(name, args, run, tokenizer, valid_tokens):
    """Exports the model and measures the bf16 weights that ship."""
    folder = os.path.join(args.out, name)
    export.write_model(folder, run.model, tokenizer)
    windows = 128
    loss = evaluate(export.read_model(folder, torch.float32), valid_tokens, windows)
    # Absolute paths are cut to their last part: the rest means nothing on another machine.
    words = [os.path.basename(w.rstrip("/")) if os.path.isabs(w) else w for w in sys.argv]
    export.write_json(os.path.join(folder, "training_log.json"), {
        "command": "python3 " + shlex.join(words),
        "seed": args.seed, "steps": args.steps, "tokens_seen": args.steps * BATCH_TOKENS,
        "batch_tokens": BATCH_TOKENS, "context": [SHORT, LONG], "long_context_from": LONG_FROM,
        "muon_lr": args.muon_lr, "adam_lr": args.adam_lr,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "torch": torch.__version__.split("+")[0], "seconds": round(run.seconds),
        "validation": {"tokens": windows * LONG, "weights": "bf16, as shipped",
                       "nats_per_token": round(loss, 4),
                       "bits_per_byte": round(
                           bits_per_byte(loss, valid_tokens, windows, tokenizer), 4)},
        "curve": run.curve,
    })
    print(f"{name}: {loss:.4f} nats/token on {windows * LONG} validation tokens", flush=True)


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    os.makedirs(args.work, exist_ok=True)
    vocab_size = models.Config().vocab_size
    tokenizer = corpus.tokenizer_for(args.work, args.text, vocab_size)
    train_tokens = corpus.tokens_of(args.work, args.text, tokenizer)
    valid_tokens = corpus.tokens_of(args.work, args.valid, tokenizer)
    print(f"{len(train_tokens)} training tokens, {len(valid_tokens)} validation tokens")
    for name in args.models.split(","):
        run = train(name, args, train_tokens, valid_tokens)
        finish(name, args, run, tokenizer, valid_tokens)


if __name__ == "__main__":
    main()
