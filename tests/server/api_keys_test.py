#!/usr/bin/env python3
"""API keys and their limits, on both fronts: api_keys_test.py BUILD/bin/strata BUILD/bin/strata-loadtest."""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import unittest

import grpc

from strata_grpc import pb, stub
from strata_http import call, metrics, total, wait_for
from strata_process import Served, run, without_strata_variables

BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)
PROMPT = 'Once upon a time'
BODY = {'prompt': PROMPT, 'max_tokens': 4, 'temperature': 0}
LONG = {'text': PROMPT, 'max_tokens': 480, 'ignore_eos': True, 'n': 16}


def strata(*arguments, binary=BINARY, key=None):
    environment = without_strata_variables()
    if key is not None:
        environment['STRATA_API_KEY'] = key
    return run(binary, *map(str, arguments), env=environment)


def new_key(name, *flags):
    result = strata('key', '--name', name, *flags)
    assert result.returncode == 0, result.stderr
    key, line = result.stdout.splitlines()
    return key, line


def bearer(key):
    return {'Authorization': f'Bearer {key}'}


class ApiKeys(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = pathlib.Path(self.folder.name, 'keys')
        self.log = pathlib.Path(self.folder.name, 'access.log')

    @contextlib.contextmanager
    def served(self, *lines):
        self.file.write_text('# who may ask\n\n' + '\n'.join(lines) + '\n')
        with Served(BINARY, '--api-keys', str(self.file), '--access-log', str(self.log)) as server:
            yield server

    def generate(self, server, key=None, **fields):
        """Code, words and trailers of a call of Generate."""
        metadata = [('authorization', f'Bearer {key}')] if key else []
        request = pb.GenerateRequest(**{'text': PROMPT, 'max_tokens': 4, **fields})
        with grpc.insecure_channel(server.address) as channel:
            events = stub(channel).Generate(request, metadata=metadata)
            with contextlib.suppress(grpc.RpcError):
                for _ in events:
                    pass
            return events.code(), events.details(), dict(events.trailing_metadata())

    def complete(self, server, key=None):
        return call(server, 'POST', '/v1/completions', BODY, bearer(key) if key else {})

    def test_who_may_ask(self):
        alice, alice_line = new_key('alice')
        bob, bob_line = new_key('bob.2')
        self.assertNotEqual(alice, bob)
        self.assertNotIn(alice.split('_')[1], alice_line)
        with self.served(alice_line, bob_line) as server:
            for key in (alice, bob):
                self.assertEqual(self.generate(server, key)[0], grpc.StatusCode.OK)
                self.assertEqual(self.complete(server, key)[0], 200)
            for key in (None, 'strata_' + '0' * 64, alice[:-1], alice + 'x'):
                code, words, _ = self.generate(server, key)
                self.assertEqual(code, grpc.StatusCode.UNAUTHENTICATED)
                self.assertRegex(words, r'^api_key: \w+')
                status, headers, text = self.complete(server, key)
                self.assertEqual((status, headers['WWW-Authenticate']), (401, 'Bearer'), text)
                self.assertEqual(json.loads(text)['error']['code'], 'invalid_api_key')
            # The server also keeps everything else from callers without a key, except its health.
            self.assertEqual(call(server, 'GET', '/v1/models')[0], 401)
            self.assertEqual(call(server, 'GET', '/v1/models', headers=bearer(bob))[0], 200)
            self.assertEqual(call(server, 'GET', '/none')[0], 401)
            self.assertEqual(call(server, 'GET', '/version', headers={'X-Request-Id': 'me'})[0], 401)
            self.assertEqual(call(server, 'POST', '/tokenize', {'prompt': PROMPT})[0], 401)
            self.assertEqual(call(server, 'POST', '/tokenize', {'prompt': PROMPT}, bearer(bob))[0],
                             200)
            for path in ('/health', '/healthz', '/health/', '/ping', '/readyz', '/metrics'):
                self.assertEqual(call(server, 'GET', path)[0], 200)
            self.assertEqual(strata('health', '--server', server.address).returncode, 0)
            with grpc.insecure_channel(server.address) as channel:
                for method in (stub(channel).GetModel, stub(channel).Tokenize):
                    with self.assertRaises(grpc.RpcError) as raised:
                        method(pb.GetModelRequest() if method == stub(channel).GetModel
                               else pb.TokenizeRequest(text='a'))
                    self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
                tokens = stub(channel).Tokenize(pb.TokenizeRequest(text=PROMPT),
                                                metadata=[('authorization', f'Bearer {alice}')])
                self.assertGreater(len(tokens.token_ids), 1)
                unknown = channel.unary_unary('/strata.v1.Inference/None')
                with self.assertRaises(grpc.RpcError) as raised:
                    unknown(b'')
                self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
            seen = call(server, 'GET', '/metrics')[2]
            # Both fronts, four wrong keys each, three more over gRPC and four over HTTP.
            self.assertIn('strata_rejections_total{reason="unauthenticated"} 15', seen)
            server_log = ''.join(server.log)
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.assertEqual([line['key'] for line in lines if line['status'] == 'OK'],
                         ['alice', 'alice', 'bob.2', 'bob.2'])
        self.assertEqual({line['key'] for line in lines if line['status'] != 'OK'}, {''})
        self.assertEqual([line['status'] for line in lines if line['request_id'] == 'me'],
                         ['UNAUTHENTICATED'])
        for text in (self.log.read_text(), seen, server_log):
            for secret in (alice, bob, alice_line.split()[1], PROMPT):
                self.assertNotIn(secret, text)

    def test_clients(self):
        key, line = new_key('c')
        with self.served(line) as server:
            flags = ('--server', server.address, '--prompt', PROMPT, '--max-tokens', '4')
            refused = strata('generate', *flags)
            self.assertEqual(refused.returncode, 1)
            self.assertIn('UNAUTHENTICATED: api_key: none given', refused.stderr)
            self.assertEqual(strata('generate', *flags, key=key).returncode, 0)
            file = pathlib.Path(self.folder.name, 'key')
            file.write_text(key + '\n')
            self.assertEqual(strata('generate', *flags, '--api-key-file', file).returncode, 0)
            load = ('--server', server.address, '--users', '2', '--requests', '4', '--quiet',
                    '--output-tokens', '4')
            self.assertEqual(strata(*load, '--api-key-file', file, binary=LOADTEST).returncode, 0)
            self.assertEqual(strata(*load, binary=LOADTEST).returncode, 1)
            file.write_text('two words')
            self.assertIn('api-key-file', strata('generate', *flags, '--api-key-file', file).stderr)

    def test_the_file_is_read_again(self):
        one, one_line = new_key('one')
        two, two_line = new_key('two')
        with self.served(one_line) as server:
            self.assertEqual(self.complete(server, two)[0], 401)
            self.file.write_text(two_line + '\n')
            wait_for(lambda: self.complete(server, two)[0] == 200)
            self.assertEqual(self.complete(server, one)[0], 401)
            self.file.write_text(one_line + '\nbroken\n')
            wait_for(lambda: any('keys before it stay' in line for line in server.log))
            self.assertEqual(self.complete(server, two)[0], 200)
            warning = [line for line in server.log if 'keys before it stay' in line][0]
            self.assertIn(f'{self.file} line 2: the second word is not sha256:', warning)
            self.file.unlink()
            wait_for(lambda: any('cannot read' in line for line in server.log))
            self.assertEqual(self.complete(server, two)[0], 200)

    def test_a_file_that_cannot_be_used(self):
        _, line = new_key('a')
        secret = 'strata_' + 'f' * 64
        for text, words in ((f'a {secret}', 'line 1: the second word'),
                            (f'{line}\n{line}', 'line 2: the name stands there twice'),
                            (line + '\n' + line.replace('a ', 'b ', 1), 'line 2: the key stands'),
                            (line + ' concurrent=0', 'line 1: word 3'),
                            (line + ' requests_per_second=fast', 'line 1: word 3'),
                            ('a,b ' + line.split()[1], 'line 1: the name')):
            self.file.write_text(text)
            result = strata('serve', '--api-keys', self.file)
            self.assertEqual((result.returncode, result.stderr.count('\n')), (1, 1), result.stderr)
            self.assertIn(words, result.stderr)
            self.assertNotIn(secret, result.stderr)
        self.assertIn('No such file', strata('serve', '--api-keys', '/none').stderr)
        self.assertEqual(strata('key').returncode, 2)
        self.assertEqual(strata('key', '--name', 'a b').returncode, 1)
        self.assertEqual(strata('key', '--name', 'a', '--concurrent', '-1').returncode, 2)

    def test_requests_at_a_time(self):
        key, line = new_key('few', '--concurrent', '2')
        free, free_line = new_key('free')
        with self.served(line, free_line) as server, \
             grpc.insecure_channel(server.address) as channel:
            running = [stub(channel).Generate(pb.GenerateRequest(**LONG),
                                              metadata=[('authorization', f'Bearer {key}')])
                       for _ in range(2)]
            for stream in running:
                self.assertTrue(next(stream).HasField('started'))
            code, words, trailers = self.generate(server, key)
            self.assertEqual(code, grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn('api_key: few has 2 requests running', words)
            self.assertIn('grpc-status-details-bin', trailers)  # RetryInfo
            status, headers, text = self.complete(server, key)
            self.assertEqual((status, headers['Retry-After']), (429, '1'), text)
            for path in ('/tokenize', '/detokenize'):
                status, headers, text = call(server, 'POST', path, {'prompt': 'a', 'tokens': [1]},
                                             bearer(key))
                self.assertEqual((status, headers['Retry-After']), (429, '1'), text)
            for stream in running:
                for _ in stream:
                    pass
            self.assertEqual(self.complete(server, free)[0], 200)
            # A place is free as soon as its client gets the end.
            for _ in range(20):
                self.assertEqual(self.generate(server, key)[0], grpc.StatusCode.OK)
                self.assertEqual(self.complete(server, key)[0], 200)
            self.assertEqual(total(metrics(server), 'strata_rejections_total'), 4)
            self.assertEqual(metrics(server)['strata_rejections_total{reason="key_limit"}'], 4)
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.assertEqual([line['key'] for line in lines if line['status'] == 'RESOURCE_EXHAUSTED'],
                         ['few'] * 4)

    def test_requests_a_second(self):
        key, line = new_key('slow', '--requests-per-second', '0.2')
        with self.served(line) as server:
            self.assertEqual(self.complete(server, key)[0], 200)
            status, headers, text = self.complete(server, key)
            self.assertEqual(status, 429, text)
            self.assertIn('slow may make 0.2 requests a second', text)
            self.assertIn(int(headers['Retry-After']), range(1, 6))
            self.assertEqual(self.generate(server, key)[0], grpc.StatusCode.RESOURCE_EXHAUSTED)
            # A key file that is read again gives no key a new allowance.
            os.utime(self.file)
            wait_for(lambda: any('are in use from now on' in text for text in server.log))
            self.assertEqual(self.complete(server, key)[0], 429)
            self.file.write_text(line.replace('0.2', '1000') + '\n')
            wait_for(lambda: self.complete(server, key)[0] == 200)


if __name__ == '__main__':
    unittest.main()
