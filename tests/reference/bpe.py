#!/usr/bin/env python3
"""Byte-level BPE: trains a tokenizer, writes it as `tokenizer.json`, encodes and decodes.

The algorithm is GPT-2's: text is cut into words by one regular expression, a word's UTF-8 bytes are
written as printable characters, and merges are applied inside a word, lowest rank first.

    python3 bpe.py --text train.txt --out DIR            trains, writes DIR/tokenizer*.json
    python3 bpe.py --load DIR --vectors vectors.json     writes test vectors of that tokenizer
"""

import argparse
import collections
import heapq
import json
import os
import re
import sys
import unicodedata

END_OF_TEXT = "<|endoftext|>"  # parts documents; always id 0


def character_class(major):
    """The inside of a [...] with every character whose Unicode category starts with `major`."""
    ranges, start = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == major
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(ranges)


def word_pattern():
    r"""GPT-2's pattern, for `re`, which has neither \p{L} nor \p{N}.

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    The classes are spelt out: Python's \w also takes in '_' and its \s U+001C to U+001F.
    """
    letter, number = character_class("L"), character_class("N")
    space = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
        f"|[{space}]+(?![^{space}])|[{space}]+"
    )


def byte_characters():
    """GPT-2's table: a printable character for each of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, shifted = {byte: chr(byte) for byte in printable}, 0
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + shifted)
            shifted += 1
    return table


class Tokenizer:
    """vocab: token (in printable characters) -> id; merges: pairs of tokens, in rank order."""

    def __init__(self, vocab, merges):
        self.vocab = vocab
        self.merges = [tuple(merge) for merge in merges]
        self.ranks = {merge: rank for rank, merge in enumerate(self.merges)}
        self.words = word_pattern()
        self.to_character = byte_characters()
        to_byte = {character: byte for byte, character in self.to_character.items()}
        self.token_bytes = {
            token_id: token.encode() if token == END_OF_TEXT else bytes(to_byte[c] for c in token)
            for token, token_id in vocab.items()
        }
        self.cache = {}

    @classmethod
    def load(cls, folder):
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
            model = json.load(file)["model"]
        return cls(model["vocab"], [merge.split(" ") for merge in model["merges"]])

    def encode_word(self, word):
        pieces = [self.to_character[byte] for byte in word.encode()]
        while len(pieces) > 1:
            ranked = [(self.ranks.get(pair, len(self.ranks)), i)
                      for i, pair in enumerate(zip(pieces, pieces[1:]))]
            rank, i = min(ranked)
            if rank == len(self.ranks):
                break
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        return [self.vocab[piece] for piece in pieces]

    def encode(self, text):
        """Ids of `text`; END_OF_TEXT inside it is the special token."""
        ids = []
        for index, document in enumerate(text.split(END_OF_TEXT)):
            if index:
                ids.append(self.vocab[END_OF_TEXT])
            for match in self.words.finditer(document):
                word = match.group()
                if word not in self.cache:
                    self.cache[word] = self.encode_word(word)
                ids += self.cache[word]
        return ids

    def decode(self, ids):
        return b"".join(self.token_bytes[int(i)] for i in ids).decode(errors="replace")

    def save(self, folder, max_length):
        """Writes tokenizer.json and tokenizer_config.json."""
        special = {"id": 0, "content": END_OF_TEXT, "single_word": False, "lstrip": False,
                   "rstrip": False, "normalized": False, "special": True}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True}
        tokenizer = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special],
            "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": self.vocab, "merges": [" ".join(m) for m in self.merges]},
        }
        flags = {key: special[key] for key in
                 ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
        config = {"add_prefix_space": False, "added_tokens_decoder": {"0": flags},
                  "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT,
                  "clean_up_tokenization_spaces": False, "model_max_length": max_length,
                  "tokenizer_class": "GPT2Tokenizer"}
        os.makedirs(folder, exist_ok=True)
        for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            path = os.path.join(folder, name)
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False, indent=1)
                file.write("\n")
            os.replace(path + ".tmp", path)


def merge_word(pieces, pair, merged):
    out, i = [], 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            out.append(merged)
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out


def train(text, vocab_size):
    """The vocab_size - 257 most frequent merges; ties go to the pair that sorts first."""
    pattern, to_character = word_pattern(), byte_characters()
    counted = collections.Counter()
    for document in text.split(END_OF_TEXT):
        counted.update(match.group() for match in pattern.finditer(document))
    words = [[to_character[byte] for byte in word.encode()] for word in counted]
    counts = list(counted.values())

    pair_counts, pair_words = collections.Counter(), collections.defaultdict(set)
    for index, pieces in enumerate(words):
        for pair in zip(pieces, pieces[1:]):
            pair_counts[pair] += counts[index]
            pair_words[pair].add(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)

    tokens, merges = [END_OF_TEXT, *sorted(to_character.values())], []
    known = set(tokens)
    while len(tokens) < vocab_size and heap:
        count, pair = heapq.heappop(heap)
        if -count != pair_counts[pair]:  # stale: the pair was pushed again with its present count
            continue
        merged = pair[0] + pair[1]
        merges.append(pair)
        if merged not in known:
            known.add(merged)
            tokens.append(merged)
        changed = set()
        for index in pair_words.pop(pair):
            before = words[index]
            words[index] = after = merge_word(before, pair, merged)
            for old in zip(before, before[1:]):
                pair_counts[old] -= counts[index]
                changed.add(old)
            for new in zip(after, after[1:]):
                pair_counts[new] += counts[index]
                pair_words[new].add(index)
                changed.add(new)
        del pair_counts[pair]
        changed.discard(pair)
        for other in changed:
            if pair_counts[other] > 0:
                heapq.heappush(heap, (-pair_counts[other], other))
    return Tokenizer({token: i for i, token in enumerate(tokens)}, merges)


VECTORS = [
    "", " ", "  ", "\n", "\n\n", " \n ", "\t", "a", " a", "  a", "Hello, world!",
    "It's what they'll say; I'd go, we've won, you're IT'S.", "one  two   three    four",
    "trailing spaces   ", "line one\nline two\r\n\r\n  indented\n\tTab", "1", "12345 67.89 3rd",
    "snake_case __init__ (a+b)*c == 0;", "naïve café, Æsop’s “œuvre” — £5", "ΑΒΓ καὶ Привет",
    "日本語のテキスト", "½ cup, x², Ⅷ, ٣٤", "🙂👍🏽 e\u0301", "a\u00a0b\u2003c\u200bd",
    END_OF_TEXT, f"The end.{END_OF_TEXT}Once upon a time", f"{END_OF_TEXT}{END_OF_TEXT} x",
    "<|endoftext", "\x00\x7f\x1c",
    "The fox said that it would wait beside the old mill until dawn.",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", help="training text, UTF-8")
    parser.add_argument("--out", help="folder for the tokenizer trained on --text")
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--max-length", type=int, default=512, help="model_max_length")
    parser.add_argument("--load", help="folder of a trained tokenizer")
    parser.add_argument("--vectors", help="file for the test vectors of --load")
    args = parser.parse_args()
    if args.text:
        with open(args.text, encoding="utf-8", newline="") as file:
            train(file.read(), args.vocab_size).save(args.out, args.max_length)
    if args.vectors:
        tokenizer = Tokenizer.load(args.load)
        vectors = [{"text": text, "ids": tokenizer.encode(text)} for text in VECTORS]
        assert all(tokenizer.decode(v["ids"]) == v["text"] for v in vectors)
        lines = ",\n".join("  " + json.dumps(vector) for vector in vectors)
        with open(args.vectors, "w", encoding="utf-8") as file:
            file.write(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
