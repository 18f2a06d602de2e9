#!/usr/bin/env python3
"""A server among hostile clients: garbage, half-open and slow connections, floods of them, messages
and headers of any size, compressed bombs, streams that are opened and left.

    hostile_test.py BUILD/bin/strata [--seconds 3] [--connections 500]

Afterwards nothing of them is left in the server; honest clients got their answers all the time, and
what those took is printed beside what they take in quiet. By hand, which is to be done of a release
and of an ASan build (with ASAN_OPTIONS=quarantine_size_mb=16, or its quarantine is what grows):

    hostile_test.py BUILD/bin/strata --seconds 300 --connections 10000
"""

import argparse
import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time

import grpc

from strata_grpc import pb, stub
from strata_http import call, metrics, wait_for
from strata_process import TIMEOUT, Served

PROMPT = 'Once upon a time'
SPARE_FILES = SPARE_THREADS = 16
# gRPC starts another timer thread whenever the deadline of a connection passes while all its timer
# threads are busy, and ends none of them: up to 156 after 10,000 connections at a time. Not one a
# client.
TIMER_THREAD = 'grpc_global_tim'
CONNECTIONS_A_TIMER, SPARE_TIMERS = 50, 32
# Memory that stays allocated afterwards: caches of threads, gRPC's lists for the highest number of
# connections. In five minutes some 700,000 connections came, so that a leak of 12 bytes for each
# would be too much.
SPARE_ALLOCATED = 8 << 20
# Pages with an allocation in use stay with the process: at most the memory of the highest number of
# connections at a time and of their threads. A sanitizer keeps the stacks of all allocations.
SPARE_RESIDENT, RESIDENT_A_CONNECTION = 96 << 20, 16 << 10
TRIM_SECONDS = 10  # between two times that the server returns free pages
LONG_SECONDS = 60
TRIES = 100


def counts(server):
    """Descriptors, threads, and of those the timers of gRPC."""
    process = pathlib.Path(f'/proc/{server.pid}')
    names = []
    for thread in (process / 'task').iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            names.append((thread / 'comm').read_text().strip())
    timers = names.count(TIMER_THREAD)
    return {'descriptors': len(os.listdir(process / 'fd')), 'threads': len(names) - timers,
            'timers': timers}


class Honest:
    """Clients that ask one after another; what their requests take, in seconds, and how often a
    connection had to be made anew."""

    def __init__(self, server):
        self.server = server
        self.seconds, self.again, self.failed = [], 0, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(ask,))
                         for ask in (self._grpc, self._new_grpc, self._http)]

    def __enter__(self):
        self._channel = grpc.insecure_channel(self.server.address)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _grpc(self, channel=None):
        request = pb.GenerateRequest(text=PROMPT, max_tokens=4, temperature=0)
        events = list(stub(channel or self._channel).Generate(request, timeout=TIMEOUT))
        assert events[-1].HasField('finished')

    def _new_grpc(self):
        own = [('grpc.use_local_subchannel_pool', 1)]
        with grpc.insecure_channel(self.server.address, own) as channel:
            self._grpc(channel)

    def _http(self):
        status, _, text = call(self.server, 'POST', '/v1/completions',
                               {'prompt': PROMPT, 'max_tokens': 4, 'temperature': 0})
        if status in (429, 503):
            raise ConnectionError(text)
        assert status == 200, text

    def _repeat(self, ask):
        while not self._stop.wait(0.05):
            begin = time.monotonic()
            for _ in range(TRIES):
                try:
                    ask()
                    break
                except (OSError, grpc.RpcError) as error:
                    if isinstance(error, grpc.RpcError) and \
                            error.code() != grpc.StatusCode.UNAVAILABLE:
                        self.failed.append(str(error))
                        return
                    self.again += 1
                    time.sleep(0.05)
            else:
                self.failed.append(f'{ask.__name__}: {TRIES} times refused')
                return
            self.seconds.append((time.monotonic() - begin, ask.__name__))

    def report(self, when):
        seconds = sorted(self.seconds)
        percentiles = {name: seconds[int((len(seconds) - 1) * share)][0] * 1e3
                       for name, share in (('p50', 0.5), ('p99', 0.99), ('most', 1))}
        print(f'{when}: {len(seconds)} honest requests, ' +
              ', '.join(f'{name} {value:.1f} ms' for name, value in percentiles.items()) +
              f' (by {seconds[-1][1]}), {self.again} times asked again', flush=True)


def attacked(server, seconds, options):
    """What the attackers did in so many seconds."""
    program = pathlib.Path(__file__).with_name('hostile_attacks.py')
    attacker = subprocess.Popen([sys.executable, str(program), server.address, server.http_address,
                                 str(options.connections), options.attacks],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)
    time.sleep(seconds)
    return attacker.communicate(timeout=TIMEOUT)[0].strip()


def settled(server, before, options):
    """Memory in bytes, resident and allocated, when the server is idle and all that the clients had
    is gone."""
    spare = {'descriptors': SPARE_FILES, 'threads': SPARE_THREADS,
             'timers': SPARE_TIMERS + options.connections // CONNECTIONS_A_TIMER}
    wait_for(lambda: all(now <= before[what] + spare[what] for what, now in counts(server).items()),
             lambda: f'{before} before, {counts(server)} after')
    wait_for(lambda: metrics(server)['vllm:num_requests_running'] == 0)
    assert metrics(server)['strata_cache_blocks{state="used"}'] == 0
    if options.seconds >= LONG_SECONDS:
        time.sleep(TRIM_SECONDS + 1)
    seen = metrics(server)
    memory = seen['process_resident_memory_bytes'], seen['strata_allocated_bytes']
    print(f'{before} before, {counts(server)} after; memory in MiB: resident, allocated:',
          [round(bytes / (1 << 20), 1) for bytes in memory], flush=True)
    return memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('binary')
    parser.add_argument('--seconds', type=float, default=3)
    parser.add_argument('--connections', type=int, default=500)
    parser.add_argument('--attacks', default='', help='such as flood,bombs; all if not given')
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    quiet_seconds = min(20, options.seconds / 2)
    with Served(options.binary, '--handshake-timeout', '2s', '--request-timeout', '2s',
                '--idle-timeout', '10s') as server:
        with Honest(server) as honest:
            time.sleep(quiet_seconds)
        honest.report('quiet')
        assert not honest.failed, honest.failed
        before = counts(server)
        attacked(server, quiet_seconds, options)
        _, first = settled(server, before, options)  # includes memory that a crowd takes once
        with Honest(server) as honest:
            print('attacks:', attacked(server, options.seconds, options))
        honest.report('attacked')
        assert not honest.failed, honest.failed
        resident, last = settled(server, before, options)
        assert last <= first + SPARE_ALLOCATED, f'{first} bytes became {last}'
        if 'ASAN_OPTIONS' not in os.environ:
            assert resident <= SPARE_RESIDENT + options.connections * RESIDENT_A_CONNECTION, resident
        with Honest(server) as honest:
            time.sleep(1)
        honest.report('after')
        assert not honest.failed, honest.failed
    assert server.wait() == 0
    with contextlib.suppress(ValueError):
        print(f'{len(server.log)} lines in the log')
    assert len(server.log) < 20 + options.seconds, server.log[:50]


if __name__ == '__main__':
    main()
