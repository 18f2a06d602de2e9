#!/usr/bin/env python3
"""Clients that die, stall, vanish or come in a crowd: client_faults_test.py BUILD/bin/strata.

Whatever they do, afterwards nothing of them is left in the server: no sequence, block, thread or
file descriptor; and each request that was accepted has ended exactly once.
"""

import asyncio
import collections
import contextlib
import gzip
import json
import os
import pathlib
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

import grpc

from strata_grpc import generate, pb, stub
from strata_http import call, dial, metrics, post, stand_still, total, wait_for
from strata_process import TIMEOUT, Served, without_strata_variables

BINARY = sys.argv.pop(1)
PROMPT = 'Once upon a time'
# gRPC keeps a few more pollers after a crowd than before it. Not one for each client.
SPARE_THREADS = 8
SPARE_FILES = 8
LONG = {'prompt': PROMPT, 'max_tokens': 480, 'ignore_eos': True, 'n': 8, 'logprobs': 20,
        'stream': True}
CONNECTIONS = 1000


def long_request():
    return pb.GenerateRequest(text=PROMPT, max_tokens=480, ignore_eos=True, n=8, logprobs=20)


def count(server, what):
    return len(os.listdir(f'/proc/{server.pid}/{what}'))


def reset(client):
    """Closes without a farewell: RST, no FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    client.close()


def limit_files(soft):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def sockets(number, address, stack):
    return [stack.enter_context(contextlib.closing(dial(address))) for _ in range(number)]


class ClientFaults(unittest.TestCase):

    @contextlib.contextmanager
    def crowd(self, *flags):
        """A server, that must be as it was when the crowd has gone."""
        with tempfile.TemporaryDirectory() as directory:
            path = self.log = pathlib.Path(directory, 'access.log')
            with Served(BINARY, '--access-log', str(path), *flags) as server:
                self.use(server)
                before = {what: count(server, what) for what in ('task', 'fd')}
                yield server
                self.wait_until_idle(server)
                self.wait_until_gone(server, before)
                self.use(server)
                seen = metrics(server)
                server.send(signal.SIGTERM)
                self.assertEqual(server.wait(), 0)
            self.check_ends(path.read_text(), seen)

    def use(self, server):
        with grpc.insecure_channel(server.address) as channel:
            events = list(stub(channel).Generate(pb.GenerateRequest(text=PROMPT, max_tokens=3)))
            self.assertTrue(events[-1].HasField('finished'))
        self.assertEqual(call(server, 'POST', '/v1/completions', {'prompt': PROMPT})[0], 200)

    def wait_until_idle(self, server):
        idle = {'vllm:num_requests_running': 0, 'vllm:num_requests_waiting': 0,
                'strata_cache_blocks{state="used"}': 0}

        def now():
            seen = metrics(server)
            return {name: seen[name] for name in idle}
        wait_for(lambda: now() == idle, now)
        seen = metrics(server)
        blocks = int(re.search(r'num_gpu_blocks="(\d+)"', ' '.join(seen)).group(1))
        self.assertEqual(seen['strata_cache_blocks{state="free"}'] +
                         seen['strata_cache_blocks{state="cached"}'], blocks)

    def wait_until_gone(self, server, before):
        limits = {'task': before['task'] + SPARE_THREADS, 'fd': before['fd'] + SPARE_FILES}

        def now():
            return {what: count(server, what) for what in limits}
        wait_for(lambda: all(now()[what] <= limit for what, limit in limits.items()),
                 lambda: f'{before} before, {now()} after')
        print(f'threads and files: {before} before, {now()} after', file=sys.stderr)

    def check_ends(self, log, seen):
        """One line in the log for each request, and metrics that agree."""
        lines = [json.loads(line) for line in log.splitlines()]
        ids = collections.Counter(line['request_id'] for line in lines
                                  if line['reason'] != 'refused')
        self.assertEqual([name for name, times in ids.items() if times != 1], [])
        refused = sum(line['reason'] == 'refused' for line in lines)
        self.assertEqual(total(seen, 'strata_requests_total'), len(ids))
        self.assertEqual(total(seen, 'strata_rejections_total'), refused)
        self.assertEqual(total(seen, 'strata_generated_tokens_total'),
                         sum(line['generated_tokens'] for line in lines))
        self.statuses = collections.Counter(line['status'] for line in lines)
        print(f'{len(ids)} requests, {refused} refused: {dict(self.statuses)}', file=sys.stderr)
        self.assertLessEqual(set(self.statuses), {'OK', 'CANCELLED', 'RESOURCE_EXHAUSTED',
                                                  'INVALID_ARGUMENT'})

    def test_clients_killed_in_mid_stream(self):
        python = ('import sys, grpc, strata_grpc\n'
                  'channel = grpc.insecure_channel(sys.argv[1])\n'
                  'request = strata_grpc.pb.GenerateRequest()\n'
                  'request.ParseFromString(bytes.fromhex(sys.argv[2]))\n'
                  'for event in strata_grpc.stub(channel).Generate(request):\n'
                  '    print(event, flush=True)\n')
        with self.crowd() as server:
            own = [BINARY, 'generate', '--server', server.address, '--prompt', PROMPT,
                   '--max-tokens', '480', '--ignore-eos', '--n', '8', '--json']
            other = [sys.executable, '-c', python, server.address,
                     long_request().SerializeToString().hex()]
            environment = {**without_strata_variables(), 'no_proxy': '*',
                           'PYTHONPATH': str(pathlib.Path(__file__).parent)}
            for command, number, at_once in ((own, 8, False), (other, 3, True)):
                clients = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
                           for _ in range(number)]
                if at_once:
                    for client in clients:
                        self.assertTrue(client.stdout.readline())  # an event
                else:
                    wait_for(lambda: metrics(server)['vllm:num_requests_running'] > 8)
                for client in clients:
                    client.send_signal(signal.SIGKILL)
                for client in clients:
                    client.wait(TIMEOUT)
                    client.stdout.close()
                self.wait_until_idle(server)
        self.assertGreater(self.statuses['CANCELLED'], 3)

    def ended_as(self, status):
        """How many requests have ended so up to now."""
        return sum(json.loads(line)['status'] == status
                   for line in self.log.read_text().splitlines(keepends=True)
                   if line.endswith('\n'))

    def test_readers_that_stand_still(self):
        # 3 MB; gRPC's buffers are small here too.
        message = pb.GenerateRequest(text='the ' * 380, logprobs=20, prompt_logprobs=20,
                                     attention=[pb.AttentionHead()], max_tokens=100,
                                     ignore_eos=True, n=16)
        with self.crowd('--write-timeout', '1s') as server, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(stand_still(server)))
                       for _ in range(4)]
            narrow = [('grpc.http2.bdp_probe', 0), ('grpc.http2.lookahead_bytes', 1024)]
            channel = stack.enter_context(grpc.insecure_channel(server.address, narrow))
            calls = [stub(channel).Generate(message) for _ in range(4)]
            for each in calls:
                next(each)
            self.use(server)  # other clients are not held up
            # Before the clients have left or read anything. The engine has long been idle: its
            # output waits in the server.
            wait_for(lambda: self.ended_as('CANCELLED') == 8,
                     lambda: f'{self.ended_as("CANCELLED")} of 8 were given up', limit=40)
            self.wait_until_idle(server)
            for each in calls:
                with self.assertRaises(grpc.RpcError) as raised:
                    collections.deque(each, maxlen=0)
                self.assertEqual(raised.exception.code(), grpc.StatusCode.CANCELLED)
            for client in clients:
                received = 0
                with contextlib.suppress(ConnectionResetError):
                    while piece := client.recv(1 << 16):
                        received += len(piece)
                self.assertLess(received, 1 << 20)
        self.assertEqual(self.statuses['CANCELLED'], 8)

    def test_connections_that_are_half_open(self):
        partial = [b'', b'POST', b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le',
                   b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{"prompt',
                   b'\x16\x03\x01\x02\x00\x01\x00']
        preface = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
        frames = [b'', b'PRI * HT', preface, preface + b'\0\0\0\4\0\0\0\0\0',
                  preface + b'\0\0\0\4\0\0\0\0\0' + b'\0\0\xff\1\4\0\0\0\1\x82',  # cut HEADERS
                  preface + b'\xff\xff\xff\0\0\0\0\0\1', b'GET / HTTP/1.1\r\n\r\n']
        with self.crowd() as server, contextlib.ExitStack() as stack:
            given_up = sockets(1, server.http_address, stack)[0]
            given_up.sendall(partial[3])
            for way in (reset, socket.socket.close):
                clients = []
                for address, starts in ((server.http_address, partial), (server.address, frames)):
                    for start in starts * 20:
                        clients.append(dial(address))
                        clients[-1].sendall(start)
                self.use(server)
                for client in clients:
                    way(client)
            for way in (reset, socket.socket.close):  # in mid-stream
                clients = sockets(10, server.http_address, stack)
                for client in clients:
                    post(client, LONG)
                for client in clients:
                    self.assertTrue(client.recv(100))
                    way(client)
            self.wait_until_idle(server)
            while given_up.recv(100):  # the server does not wait for the rest for ever
                pass
        self.assertGreaterEqual(self.statuses['CANCELLED'], 15)

    def test_messages_that_are_no_requests(self):
        bad_text = b'\x12\x02\xff\xfe'  # field 2, not UTF-8
        with self.crowd() as server, grpc.insecure_channel(server.address) as channel:
            generate_bytes = channel.unary_stream('/strata.v1.Inference/Generate')
            for message in (bad_text, b'\x12\x7fcut', b'\xff' * 100, b'') * 5:
                with self.assertRaises(grpc.RpcError) as raised:
                    list(generate_bytes(message))
                # gRPC itself answers messages that cannot be parsed.
                self.assertEqual(raised.exception.code().name,
                                 'UNIMPLEMENTED' if message else 'INVALID_ARGUMENT')
        # Clients cannot fill the server's log.
        self.assertEqual([line for line in server.log if 'proto' in line], [])
        self.assertLess(len(server.log), 12, server.log)

    def test_compressed_bombs(self):
        size = 64 << 20

        def most_memory():
            status = pathlib.Path(f'/proc/{server.pid}/status').read_text()
            return int(re.search(r'VmHWM:\s+(\d+) kB', status).group(1)) << 10
        with self.crowd() as server:
            before = most_memory()
            for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
                with grpc.insecure_channel(server.address, compression=compression) as channel, \
                     self.assertRaises(grpc.RpcError) as raised:
                    list(stub(channel).Generate(pb.GenerateRequest(text=' ' * size)))
                self.assertEqual(raised.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
                self.assertIn('ompression', raised.exception.details())
            body = gzip.compress(b'{"prompt": "' + b' ' * size)
            status, _, text = call(server, 'POST', '/v1/completions', body,
                                   {'Content-Encoding': 'gzip'})
            self.assertEqual(status, 415, text)
            self.assertLess(most_memory() - before, size / 2)

    def test_clients_that_leave_the_queue(self):
        with self.crowd('--max-running', '1') as server, contextlib.ExitStack() as stack:
            first = sockets(1, server.http_address, stack)[0]
            post(first, {**LONG, 'n': 1})
            self.assertTrue(first.recv(100))
            clients = sockets(50, server.http_address, stack)
            for client in clients:
                post(client, {**LONG, 'n': 1})
            with grpc.insecure_channel(server.address) as channel:
                calls = [stub(channel).Generate(long_request()) for _ in range(50)]
                # Some have already had their turn.
                wait_for(lambda: metrics(server)['vllm:num_requests_waiting'] >= 60)
                for each in calls[::2]:
                    each.cancel()
            for client, way in zip(clients, [reset, socket.socket.close] * 25):
                way(client)
            first.close()
        self.assertGreater(self.statuses['CANCELLED'], 60)

    def test_a_thousand_connections(self):
        async def crowd(server):
            options = [('grpc.use_local_subchannel_pool', 1)]
            channels = [grpc.aio.insecure_channel(server.address, options)
                        for _ in range(CONNECTIONS)]
            try:
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
                self.assertGreater(count(server, 'fd'), 2 * CONNECTIONS)  # with those of HTTP
                request = pb.GenerateRequest(text=PROMPT, max_tokens=4, temperature=0)
                return await asyncio.gather(*(generate(stub(channel), request)
                                              for channel in channels))
            finally:
                await asyncio.gather(*(channel.close() for channel in channels))

        few, hard = 256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if 0 <= hard < 4 * CONNECTIONS:
            self.skipTest(f'{hard} open files are too few')
        limit_files(few)  # as a shell might: the server itself raises the limit
        with self.crowd('--max-queue', str(3 * CONNECTIONS)) as server, \
             contextlib.ExitStack() as stack:
            limit_files(hard)
            clients = sockets(CONNECTIONS, server.http_address, stack)
            outcomes = asyncio.run(crowd(server))
            self.assertEqual({outcome.code for outcome in outcomes}, {grpc.StatusCode.OK})
            self.assertEqual({tuple(outcome.tokens[0]) for outcome in outcomes},
                             {tuple(outcomes[0].tokens[0])})
            self.assertEqual(len(outcomes[0].tokens[0]), 4)
            for client in clients:
                post(client, {'prompt': PROMPT, 'max_tokens': 4, 'temperature': 0})
            answers = collections.Counter(client.recv(100)[:12] for client in clients)
            # 960 of HTTP's connections may generate at once.
            self.assertLessEqual(set(answers), {b'HTTP/1.1 200', b'HTTP/1.1 429'})
            self.assertGreaterEqual(answers[b'HTTP/1.1 200'], 960)


if __name__ == '__main__':
    unittest.main()
