#!/usr/bin/env python3
"""Many clients on a pool of a tenth of what they ask for: soak_test.py BUILD/bin/strata [REQUESTS]

Requests of mixed lengths and priorities, a fifth of them cancelled on the way; then the server is
told to end in the midst of others. 10,000 requests by hand, fewer in the tests.
"""

import asyncio
import collections
import contextlib
import random
import re
import signal
import sys
import threading
import unittest

import grpc

from strata_grpc import generate, pb, stub
from strata_http import metrics as scrape
from strata_process import Served

BINARY = sys.argv.pop(1)
REQUESTS = int(sys.argv.pop(1)) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 600
USERS = 64
CANCEL_SHARE = 0.2
BLOCKS = ('--block-tokens', '16')
BLOCK_BYTES = 16 * 2304  # of the default model
WORDS = ('once upon a time there was an old king who had a daughter and she said to him that the '
         'road was long and the night was dark but the house stood by the sea').split()


def make_request(number):
    rng = random.Random(number)
    prompt = ' '.join(WORDS[:rng.randrange(1, 30)] + rng.choices(WORDS, k=rng.randrange(0, 20)))
    return pb.GenerateRequest(request_id=str(number), text=prompt, seed=number,
                              temperature=rng.choice([0, 0.8]), max_tokens=rng.randrange(4, 60),
                              priority=rng.randrange(-1, 2), ignore_eos=True,
                              n=2 if rng.random() < 0.05 else 1)


async def users(address, numbers, results):
    queue = collections.deque(numbers)
    async with grpc.aio.insecure_channel(address) as channel:
        client = stub(channel)

        async def user():
            while queue:
                number = queue.popleft()
                rng = random.Random(-number)
                cancel_after = rng.randrange(0, 20) if rng.random() < CANCEL_SHARE else None
                results[number] = await generate(client, make_request(number), cancel_after)

        await asyncio.gather(*(user() for _ in range(USERS)))


async def alone(address, numbers):
    async with grpc.aio.insecure_channel(address) as channel:
        client = stub(channel)
        return {number: await generate(client, make_request(number)) for number in numbers}


@contextlib.contextmanager
def scraping(server):
    """Yields a list that grows by a scrape after the other."""
    scrapes, done = [], threading.Event()

    def scrape_on():
        while not done.is_set():
            scrapes.append(scrape(server))

    thread = threading.Thread(target=scrape_on)
    thread.start()
    try:
        yield scrapes
    finally:
        done.set()
        thread.join()


class Soak(unittest.TestCase):

    def check_gauges(self, scrapes, blocks):
        """Of scrapes under load: each agrees with itself, and no counter goes down."""
        before = {}
        for seen in scrapes:
            states = {state: seen[f'strata_cache_blocks{{state="{state}"}}']
                      for state in ('used', 'cached', 'free')}
            self.assertEqual(sum(states.values()), blocks)
            self.assertGreaterEqual(min(states.values()), 0)
            self.assertAlmostEqual(seen['vllm:kv_cache_usage_perc'], states['used'] / blocks)
            for state, count in states.items():
                self.assertEqual(sum(seen[f'strata_cache_bytes{{pool="{pool}",state="{state}"}}']
                                     for pool in ('keys', 'values')), count * BLOCK_BYTES)
            running, waiting = seen['vllm:num_requests_running'], seen['vllm:num_requests_waiting']
            self.assertLessEqual(running + waiting, 2 * USERS)  # n is at most 2
            self.assertLessEqual(running, states['used'])
            self.assertEqual(running == 0, states['used'] == 0)
            self.assertLessEqual(seen['strata_inter_token_latency_seconds_bucket{le="0.00025"}'],
                                 seen['strata_inter_token_latency_seconds_bucket{le="0.0005"}'])
            counters = {name: value for name, value in seen.items()
                        if re.search('_(total|count|sum|bucket)({|$)', name)}
            for name, value in counters.items():
                self.assertGreaterEqual(value, before.get(name, 0), name)
            before = counters
        busy = [seen for seen in scrapes if seen['vllm:num_requests_running'] > 0]
        self.assertGreater(len(busy), 3)
        print(f'{len(scrapes)} scrapes, {len(busy)} under load', file=sys.stderr)

    def test_nothing_is_lost_in_a_pool_of_a_tenth(self):
        demand = sum(len(make_request(i).text.split()) * 2 + make_request(i).max_tokens
                     for i in range(USERS))  # tokens, at about two a word
        blocks = demand // 16 // 10
        results = {}
        with Served(BINARY, *BLOCKS, '--cache-bytes', str(blocks * BLOCK_BYTES)) as server:
            self.assertEqual(scrape(server)['strata_cache_blocks{state="free"}'], blocks)
            with scraping(server) as scrapes:
                asyncio.run(users(server.address, range(REQUESTS), results))
            metrics = scrape(server)
            done = [n for n, outcome in results.items() if outcome.code == grpc.StatusCode.OK]
            again = asyncio.run(alone(server.address, done[:: max(1, len(done) // 100)]))
        codes = collections.Counter(outcome.code.name for outcome in results.values())
        steps = metrics['strata_abort_steps_count']
        print(f'{REQUESTS} requests, {blocks} blocks: {dict(codes)}, '
              f'{metrics["strata_preemptions_total"]:.0f} preemptions, {steps:.0f} aborts',
              file=sys.stderr)

        self.check_gauges(scrapes, blocks)
        self.assertEqual(len(results), REQUESTS)
        self.assertEqual(set(codes), {'OK', 'CANCELLED'})
        for number in done:
            request, outcome = make_request(number), results[number]
            self.assertEqual(outcome.finished, request.n)
            self.assertEqual([len(outcome.tokens[i]) for i in range(request.n)],
                             [request.max_tokens] * request.n)
        for number, outcome in again.items():
            self.assertEqual(outcome, results[number], f'request {number} alone')
        self.assertGreaterEqual(metrics['strata_preemptions_total'], REQUESTS / 100)
        self.assertEqual(metrics['strata_cache_blocks{state="used"}'], 0)
        self.assertEqual(metrics['vllm:num_requests_running'], 0)
        self.assertEqual(metrics['vllm:num_requests_waiting'], 0)
        # Between a cancel and the return of its blocks only the step under way can end.
        self.assertGreater(steps, 0)
        self.assertEqual(metrics['strata_abort_steps_bucket{le="1"}'], steps)

    def test_sigterm_under_load_ends_every_stream(self):
        results = {}
        with Served(BINARY, '--drain-timeout', '300ms') as server:
            async def load():
                async def stop():
                    await asyncio.sleep(0.5)
                    server.send(signal.SIGTERM)

                await asyncio.gather(users(server.address, range(5000), results), stop())

            asyncio.run(load())
            self.assertEqual(server.wait(), 0)
        codes = collections.Counter(outcome.code.name for outcome in results.values())
        print(f'at SIGTERM: {dict(codes)}', file=sys.stderr)
        self.assertLessEqual(set(codes), {'OK', 'CANCELLED', 'UNAVAILABLE'})
        self.assertGreater(codes['UNAVAILABLE'], 0)
        for number, outcome in results.items():
            if outcome.code == grpc.StatusCode.OK:
                self.assertEqual(outcome.finished, make_request(number).n)


if __name__ == '__main__':
    unittest.main()
