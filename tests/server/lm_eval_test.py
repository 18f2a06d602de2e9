#!/usr/bin/env python3
"""Plays lm-eval's `local-completions` against the server: lm_eval_test.py BUILD/bin/strata.

Bodies are those of lm_eval/models/openai_completions.py, answers are read as it reads them, and what
it makes of them is compared with NumPy's reading of the model (numpy_model.py).
"""

import concurrent.futures
import contextlib
import json
import operator
import pathlib
import shutil
import sys
import tempfile
import unittest

from numpy_model import Model
from strata_http import call
from strata_process import Served

BINARY = sys.argv.pop(1)
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'reference'))
import bpe  # noqa: E402

MODELS = ROOT / 'deploy' / 'models'
A_TOKEN = 1e-3  # the server's float32 against float64

# (context, continuations), as in multiple-choice questions.
QUESTIONS = [
    ('Once upon a time', [' there was a king', ', and', ' of']),
    ('The old man sat by the fire and said, "', ['I am tired."', 'the the the', '🙂 naïve']),
    ("It's what they'll say;\n", [' I', "\n\nCHAPTER II"]),
    ('a', ['b', ' b']),
]


def loglikelihood_body(model, prompts):
    return {'model': model, 'prompt': prompts, 'temperature': 0, 'max_tokens': 1, 'logprobs': 1,
            'seed': 1234, 'echo': True}


def parse_logprobs(answer, context_lengths):
    """(sum of log-probabilities, is it greedy) of each choice, as lm-eval works them out."""
    results = []
    for choice, length in zip(sorted(answer['choices'], key=operator.itemgetter('index')),
                              context_lengths):
        logprobs = choice['logprobs']
        tokens = logprobs['token_logprobs'][length:-1]
        top = logprobs['top_logprobs'][length:-1]
        results.append((sum(tokens), all(value == max(likely.values())
                                         for value, likely in zip(tokens, top))))
    return results


def generate_body(model, prompts, max_tokens, stop):
    return {'prompt': prompts, 'model': model, 'max_tokens': max_tokens, 'temperature': 0,
            'stop': stop, 'seed': 1234}


def parse_generations(answer):
    texts = [None] * len(answer['choices'])
    for choice in answer['choices']:
        texts[choice['index']] = choice['text']
    return texts


def batches(items, size):
    return [items[begin:begin + size] for begin in range(0, len(items), size)]


def cut(text, stop):
    """Before the first of the stop strings."""
    return text[:min([text.find(s) for s in stop if s in text], default=len(text))]


class Played:
    """A model, served and read by NumPy; `eos`: ids that end its answers, in place of its own."""

    def __init__(self, name, eos=None):
        self.name, self.eos = name, eos
        self.tokenizer = bpe.Tokenizer.load(MODELS / name)
        self.model = Model(MODELS / name)
        self.known = {}  # results of `expected`

    @contextlib.contextmanager
    def served(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder, self.name)
            shutil.copytree(MODELS / self.name, copy)
            if self.eos is not None:
                for file in ('config.json', 'generation_config.json'):
                    values = json.loads((copy / file).read_text())
                    (copy / file).write_text(json.dumps({**values, 'eos_token_id': self.eos}))
            with Served(BINARY, '--model', str(copy), '--weights', 'f32', '--cache-dtype', 'f32',
                        '--cache-bytes', '256MiB') as self.server:
                yield self

    def complete(self, body):
        status, _, text = call(self.server, 'POST', '/v1/completions', body)
        assert status == 200, text
        return json.loads(text)

    def encode(self, questions=QUESTIONS):
        """[(context ids, continuation ids)], each continuation with its context's ids."""
        return [(self.tokenizer.encode(context), self.tokenizer.encode(continuation))
                for context, continuations in questions for continuation in continuations]

    def expected(self, context, continuation):
        """Log-probability of each token of the continuation, and whether each is the likeliest."""
        key = (*context, -1, *continuation)
        if key not in self.known:
            rows = self.model.logprobs(context + continuation)[len(context) - 1:-1]
            self.known[key] = (rows[range(len(continuation)), continuation],
                               bool((rows.argmax(axis=-1) == continuation).all()))
        return self.known[key]


class LmEval(unittest.TestCase):

    def check(self, played, requests, size, as_text=False):
        """Scores of all `requests` in batches of `size`; returns the answers' choices."""
        choices = []
        for batch in batches(requests, size):
            prompts = [context + continuation for context, continuation in batch]
            sent = prompts
            if as_text:  # tokenized_requests=False: a batch of one is no list
                sent = [played.tokenizer.decode(prompt) for prompt in prompts]
                sent = sent[0] if size == 1 else sent
            answer = played.complete(loglikelihood_body(played.name, sent))
            self.assertEqual(sorted(choice['index'] for choice in answer['choices']),
                             list(range(len(batch))))
            self.assertEqual(answer['usage']['prompt_tokens'], sum(map(len, prompts)))
            scores = parse_logprobs(answer, [len(context) for context, _ in batch])
            choices += sorted(answer['choices'], key=operator.itemgetter('index'))
            for (context, continuation), (got, greedy), choice in zip(batch, scores,
                                                                      choices[-len(batch):]):
                self.check_one(played, context, continuation, got, greedy, choice)
        return choices

    def check_one(self, played, context, continuation, got, greedy, choice):
        with self.subTest(model=played.name, context=context, continuation=continuation):
            expected, expected_greedy = played.expected(context, continuation)
            logprobs = choice['logprobs']
            self.assertEqual({len(values) for values in logprobs.values()},
                             {len(context) + len(continuation) + 1})
            self.assertIsNone(logprobs['token_logprobs'][0])
            self.assertAlmostEqual(got, expected.sum(), delta=A_TOKEN * len(continuation))
            self.assertEqual(greedy, expected_greedy)
            for value, exact in zip(logprobs['token_logprobs'][len(context):-1], expected):
                self.assertAlmostEqual(value, exact, delta=A_TOKEN)

    def test_sums_of_every_kind_of_plan_in_batches_of_one_and_of_eight(self):
        for name in ('plain', 'svformer', 'reuse', 'svformer-reuse'):
            with Played(name).served() as played:
                requests = played.encode()
                # The model's own continuation, so that some are greedy.
                context = requests[0][0]
                requests.append((context, played.model.greedy(context, 4)))
                self.assertEqual(len(requests), 11)
                alone = self.check(played, requests, 1)
                together = self.check(played, requests, 8)  # and the other three
                for one, other in zip(alone, together):
                    self.assertEqual(one['logprobs'], other['logprobs'])
                    self.assertEqual(one['text'], other['text'])
                if name != 'plain':
                    continue
                # lm-eval assumes that a decoded prompt is encoded to the same ids.
                same = [i for i, (context, continuation) in enumerate(requests)
                        if played.tokenizer.encode(played.tokenizer.decode(
                            context + continuation)) == context + continuation]
                self.assertGreaterEqual(len(same), 8)
                for size in (1, 8):
                    texts = self.check(played, [requests[i] for i in same], size, as_text=True)
                    self.assertEqual([choice['logprobs'] for choice in texts],
                                     [alone[i]['logprobs'] for i in same])

    def test_an_end_token_that_is_generated_takes_no_token_of_the_answer(self):
        plain = Played('plain')
        requests = plain.encode()[:8]
        # Makes the likeliest tokens after four of the eight end tokens, beside the model's own.
        ends = {plain.model.next_token(context + continuation)
                for context, continuation in requests[:4]}
        with Played('plain', eos=[0, *sorted(ends)]).served() as played:
            ended = 0
            for size in (1, 8):
                for (context, continuation), choice in zip(requests,
                                                           self.check(played, requests, size)):
                    prompt = context + continuation
                    following = played.model.next_token(prompt)
                    self.assertEqual(choice['finish_reason'],
                                     'stop' if following in ends else 'length')
                    ended += following in ends
                    last = choice['logprobs']['token_logprobs'][-1]
                    exact = played.model.logprobs(prompt, last=1)[0, following]
                    self.assertAlmostEqual(last, exact, delta=A_TOKEN)
                    self.assertEqual(choice['text'], played.tokenizer.decode(
                        prompt if following in ends else prompt + [following]))
            self.assertGreaterEqual(ended, 8)
            # The continuation's last token is an end token, or there is one in its middle.
            requests = [(context, continuation + [0]) for context, continuation in requests[:4]]
            requests += [(context, [0] + continuation) for context, continuation in requests[:3]]
            requests.append(([0], requests[0][0]))  # as loglikelihood_rolling begins
            for size in (1, 8):
                self.check(played, requests, size)

    def test_a_prompt_of_the_models_length_but_one(self):
        # max_length=512: lm-eval keeps the last 511 tokens and leaves a place for the generated one.
        with Played('svformer-reuse').served() as played:
            text = ' '.join(context for context, _ in QUESTIONS) + ' '
            ids = played.tokenizer.encode(text * 25)
            self.assertGreater(len(ids), 511)
            self.check(played, [(ids[-511:-11], ids[-11:])], 1)

    def test_several_batches_at_a_time(self):
        with Played('reuse').served() as played:
            requests = played.encode()
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                bodies = [loglikelihood_body(played.name, [c + d for c, d in batch])
                          for batch in batches(requests, 3)]
                answers = list(pool.map(played.complete, bodies * 3))
            for body, answer in zip(bodies * 3, answers):
                self.assertEqual(len(answer['choices']), len(body['prompt']))
            for batch, answer in zip(batches(requests, 3) * 3, answers):
                scores = parse_logprobs(answer, [len(context) for context, _ in batch])
                for (context, continuation), (got, greedy) in zip(batch, scores):
                    expected, expected_greedy = played.expected(context, continuation)
                    self.assertAlmostEqual(got, expected.sum(), delta=A_TOKEN * len(continuation))
                    self.assertEqual(greedy, expected_greedy)

    def test_generate_until(self):
        with Played('plain').served() as played:
            contexts = [played.tokenizer.encode(context) for context, _ in QUESTIONS] * 2
            contexts[4:] = [context[:-1] or [0] for context in contexts[4:]]
            texts = [played.tokenizer.decode(played.model.greedy(context, 12))
                     for context in contexts]
            for stop in (['\n\n', '<|endoftext|>'], ['\n', ' a', '<|endoftext|>'], [texts[0][3:6]]):
                expected = [cut(text, stop) for text in texts]
                got = [text for context in contexts for text in parse_generations(
                    played.complete(generate_body(played.name, [context], 12, stop)))]
                self.assertEqual(got, expected)
                answer = played.complete(generate_body(played.name, contexts, 12, stop))
                self.assertEqual(parse_generations(answer), expected)
            self.assertNotEqual(expected[0], texts[0])


if __name__ == '__main__':
    unittest.main()
