#!/usr/bin/env python3
"""A mixed run of 200 requests, each then replayed alone on a server that knows nothing of the
others: replay_test.py BUILD/bin/strata.

Tokens, texts, finish reasons and the bits of all log-probabilities must be equal, whether or not
prefixes are cached and in a pool so small that sequences are preempted.
"""

import asyncio
import collections
import random
import sys
import unittest

import grpc

from strata_grpc import generate, pb, stub
from strata_http import metrics
from strata_process import Served

BINARY = sys.argv.pop(1)
REQUESTS = 200
USERS = 48
BLOCKS = ('--block-tokens', '16')  # short, as the prompts' common prefixes are short
BLOCK_BYTES = 16 * 2304  # of the default model
SMALL_POOL = 40  # blocks
PROMPTS = ('Once upon a time there was an old king who had a daughter, and ',
           'Once upon a time there was an old king who had three sons, and the youngest said: ',
           'The sea was dark that night. ')
WORDS = 'the road was long and she said to him that the house stood by the water'.split()


def make_request(number):
    rng = random.Random(number)

    def sometimes(share, value):
        return value() if rng.random() < share else None

    prompt = rng.choice(PROMPTS) + ' '.join(rng.choices(WORDS, k=rng.randrange(0, 30)))
    optional = {
        'temperature': rng.choice([None, 0, 0.5, 0.8, 1.3]),
        'top_k': sometimes(0.3, lambda: rng.randrange(1, 50)),
        'top_p': sometimes(0.3, lambda: rng.uniform(0.5, 1)),
        'min_p': sometimes(0.2, lambda: rng.uniform(0, 0.2)),
        'repetition_penalty': sometimes(0.2, lambda: rng.uniform(0.8, 1.5)),
        'frequency_penalty': sometimes(0.2, lambda: rng.uniform(-1, 1)),
        'presence_penalty': sometimes(0.2, lambda: rng.uniform(-1, 1)),
        'logprobs': sometimes(0.7, lambda: rng.randrange(0, 6)),
        'prompt_logprobs': sometimes(0.1, lambda: rng.randrange(0, 3)),
        'n': sometimes(0.2, lambda: rng.randrange(2, 5)),
        'ignore_eos': sometimes(0.5, lambda: True),
        'min_tokens': sometimes(0.2, lambda: rng.randrange(0, 4)),
        'stop': sometimes(0.2, lambda: [rng.choice([' the', ', ', 'said', '. '])]),
        'include_stop_string': rng.random() < 0.5,
        'logit_bias': sometimes(0.2, lambda: {rng.randrange(3, 500): rng.uniform(-5, 5)
                                              for _ in range(4)}),
        'bypass_prefix_cache': rng.random() < 0.1,
        'cache_salt': rng.choice(['', '', 'tenant']),
        'priority': rng.randrange(-2, 3),
    }
    return pb.GenerateRequest(
        request_id=str(number), text=prompt, seed=rng.randrange(2 ** 64),
        max_tokens=rng.randrange(4, 60),
        **{name: value for name, value in optional.items() if value is not None})


async def mixed(address):
    """All of them, many at a time. -> outcomes by number"""
    outcomes, queue = {}, collections.deque(range(REQUESTS))
    async with grpc.aio.insecure_channel(address) as channel:

        async def user():
            while queue:
                number = queue.popleft()
                outcomes[number] = await generate(stub(channel), make_request(number))

        await asyncio.gather(*(user() for _ in range(USERS)))
    return outcomes


async def alone(address):
    """One after the other."""
    async with grpc.aio.insecure_channel(address) as channel:
        return {number: await generate(stub(channel), make_request(number))
                for number in range(REQUESTS)}


class Replay(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        # Without a prefix cache an idle server remembers nothing of earlier requests.
        with Served(BINARY, '--prefix-cache', 'off') as server:
            cls.expected = asyncio.run(alone(server.address))
            seen = metrics(server)
        assert seen['strata_preemptions_total'] == seen['strata_cached_tokens_total'] == 0

    def check(self, *flags):
        with Served(BINARY, *BLOCKS, *flags) as server:
            outcomes = asyncio.run(mixed(server.address))
            seen = metrics(server)
        for number, expected in self.expected.items():
            self.assertEqual(expected.code, grpc.StatusCode.OK)
            self.assertEqual(expected.finished, make_request(number).n or 1)
            self.assertEqual(outcomes[number], expected, f'request {number}')
        print(f'{flags}: {seen["strata_preemptions_total"]:.0f} preemptions, '
              f'{seen["strata_cached_tokens_total"]:.0f} of '
              f'{seen["strata_prompt_tokens_total"]:.0f} prompt tokens cached', file=sys.stderr)
        return seen

    def test_it_is_a_mixed_run(self):
        requests = [make_request(number) for number in range(REQUESTS)]
        for field in ('logprobs', 'n', 'temperature', 'stop', 'priority', 'logit_bias'):
            values = {str(getattr(request, field)) for request in requests}
            self.assertGreaterEqual(len(values), 4 if field != 'stop' else 3, field)
        tokens = [token for outcome in self.expected.values()
                  for sequence in outcome.tokens.values() for token in sequence]
        logprobs = [value for outcome in self.expected.values()
                    for sequence in outcome.logprobs.values() for value in sequence]
        self.assertGreater(len(tokens), 5000)
        self.assertGreater(len(logprobs), len(tokens) / 2)
        self.assertGreater(len(set(logprobs)), len(logprobs) / 2)
        reasons = {reason for outcome in self.expected.values()
                   for reason in outcome.reasons.values()}
        self.assertEqual(reasons, {pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH})

    def test_with_prefix_cache(self):
        self.assertGreater(self.check()['strata_cached_tokens_total'], 500)

    def test_without_prefix_cache(self):
        seen = self.check('--prefix-cache', 'off')
        self.assertEqual(seen['strata_cached_tokens_total'], 0)

    def test_preempted_with_prefix_cache(self):
        self.preempted('on')

    def test_preempted_without_prefix_cache(self):
        self.preempted('off')

    def preempted(self, prefix_cache):
        seen = self.check('--prefix-cache', prefix_cache, '--cache-bytes',
                          str(SMALL_POOL * BLOCK_BYTES), '--max-prefill-chunk', '7')
        self.assertGreater(seen['strata_preemptions_total'], 20)
        self.assertGreater(seen['strata_recomputed_tokens_total'], 0)


if __name__ == '__main__':
    unittest.main()
