"""Tokens of the training and validation text, cached on disk and shared between processes."""

import hashlib
import os

import numpy
import torch

import bpe


def tokenizer_for(work, text_path, vocab_size):
    """The tokenizer trained on the text, from the work folder if it is there already."""
    if not os.path.exists(os.path.join(work, "tokenizer.json")):
        with open(text_path, encoding="utf-8", newline="") as file:
            bpe.train(file.read(), vocab_size).save(work, max_length=512)
    return bpe.Tokenizer.load(work)


def tokens_of(work, text_path, tokenizer):
    """uint16 token ids of a text, memory-mapped."""
    key = repr((os.path.basename(text_path), os.path.getsize(text_path), tokenizer.merges))
    path = os.path.join(work, f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:16]}.u16")
    if not os.path.exists(path):
        with open(text_path, encoding="utf-8", newline="") as file:
            ids = numpy.array(tokenizer.encode(file.read()), dtype=numpy.uint16)
        temporary = f"{path}.{os.getpid()}"
        ids.tofile(temporary)
        os.replace(temporary, path)
    return numpy.memmap(path, dtype=numpy.uint16, mode="r")


def windows(tokens, starts, length):
    """-> ids [n, length] and the ids that follow each, [n, length]"""
    rows = numpy.stack([tokens[s : s + length + 1] for s in starts]).astype(numpy.int64)
    rows = torch.from_numpy(rows)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def training_batch(tokens, seed, step, batch, length):
    """The windows of one step. They depend on seed and step alone: all models see the same."""
    random = numpy.random.default_rng([seed, step])
    return windows(tokens, random.integers(0, len(tokens) - length - 1, size=batch), length)


def validation_windows(tokens, count, length):
    """`count` windows at even distances, the same at every call."""
    return windows(tokens, numpy.linspace(0, len(tokens) - length - 2, count).astype(int), length)
