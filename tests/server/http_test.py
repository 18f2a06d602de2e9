#!/usr/bin/env python3
"""HTTP as a client sees it, on the model that ships: http_test.py BUILD/bin/strata README."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

from strata_http import call, connect, metrics, stand_still, wait_for
from strata_process import TIMEOUT, Served, run, without_strata_variables

BINARY, README = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
PROMPT = 'Once upon a time'


def complete(server, **parameters):
    status, _, text = call(server, 'POST', '/v1/completions', {'prompt': PROMPT, **parameters})
    assert status == 200, text
    return json.loads(text)


def events(server, **parameters):
    """The data of each server-sent event."""
    status, headers, text = call(server, 'POST', '/v1/completions',
                                 {'prompt': PROMPT, 'stream': True, **parameters})
    assert status == 200, text
    assert headers['Content-Type'] == 'text/event-stream'
    blocks = text.split('\n\n')
    assert blocks.pop() == ''
    assert all(block.startswith('data: ') for block in blocks), blocks
    return [block[len('data: '):] for block in blocks]


class Http(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = Served(BINARY).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def generate(self, *flags):
        result = run(BINARY, 'generate', '--server', self.server.address, '--prompt', PROMPT,
                     '--json', *flags, env=without_strata_variables())
        return json.loads(result.stdout)

    def assert_refused(self, expected, body, param, *words, path='/v1/completions'):
        status, headers, text = call(self.server, 'POST', path, body)
        self.assertEqual(status, expected, text)
        error = json.loads(text)['error']
        self.assertEqual(set(error), {'message', 'type', 'param', 'code'})
        self.assertEqual(error['param'], param)
        for word in words:
            self.assertIn(word, error['message'])
        return headers, error

    def test_health(self):
        self.assertEqual(call(self.server, 'GET', '/healthz')[::2], (200, 'ok\n'))
        for path in ('/readyz', '/health', '/ping'):
            self.assertEqual(call(self.server, 'GET', path)[::2], (200, 'ready\n'))

    def test_models(self):
        status, _, text = call(self.server, 'GET', '/v1/models')
        self.assertEqual(status, 200)
        models = json.loads(text)
        self.assertEqual(models['object'], 'list')
        self.assertEqual([model['object'] for model in models['data']], ['model'])
        model, = models['data']
        status, _, text = call(self.server, 'GET', '/v1/models/' + model['id'])
        self.assertEqual((status, json.loads(text)), (200, model))
        for same in ('/v1/models/', '/v1/models/' + model['id'] + '/'):
            self.assertEqual(call(self.server, 'GET', same)[0], 200)
        for other in ('gpt-4', 'x' * 8000, '/', 'a%2Fb%0A', model['id'] + '/a'):
            status, _, text = call(self.server, 'GET', '/v1/models/' + other)
            self.assertEqual((status, json.loads(text)['error']['code']),
                             (404, 'model_not_found'))
        status, headers, _ = call(self.server, 'POST', '/v1/models/' + model['id'], {})
        self.assertEqual((status, headers['Allow']), (405, 'GET, HEAD'))
        answer = complete(self.server, model=models['data'][0]['id'], max_tokens=1)
        self.assertEqual(answer['model'], models['data'][0]['id'])

    def test_the_same_text_as_grpc_whole_and_streamed(self):
        expected = self.generate('--max-tokens', '60', '--temperature', '0.8', '--seed', '7')
        parameters = {'max_tokens': 60, 'temperature': 0.8, 'seed': 7}
        answer = complete(self.server, **parameters)
        self.assertEqual(answer['object'], 'text_completion')
        choice, = answer['choices']
        self.assertEqual(choice['text'], expected['text'])
        self.assertEqual(choice['finish_reason'], expected['finish_reason'])
        self.assertEqual(answer['usage']['prompt_tokens'], expected['metrics']['prompt_tokens'])
        self.assertEqual(answer['usage']['completion_tokens'], len(expected['token_ids']))

        *chunks, done = events(self.server, **parameters,
                               stream_options={'include_usage': True})
        self.assertEqual(done, '[DONE]')
        chunks = [json.loads(chunk) for chunk in chunks]
        usage = chunks.pop()
        self.assertEqual(usage['choices'], [])
        self.assertEqual(usage['usage']['completion_tokens'], len(expected['token_ids']))
        self.assertEqual(''.join(chunk['choices'][0]['text'] for chunk in chunks),
                         expected['text'])
        reasons = [chunk['choices'][0]['finish_reason'] for chunk in chunks]
        self.assertEqual(reasons, [None] * (len(chunks) - 1) + [expected['finish_reason']])
        self.assertEqual(len({chunk['id'] for chunk in chunks}), 1)

    def test_the_readmes_curl(self):
        command, = re.findall(r'^```sh\n(curl [^`]*/v1/completions[^`]*)^```$', README.read_text(),
                              re.MULTILINE)
        self.assertIn('127.0.0.1:8000', command)
        command = command.replace('127.0.0.1:8000', self.server.http_address)
        result = subprocess.run(['bash', '-c', command], stdout=subprocess.PIPE, text=True,
                                timeout=TIMEOUT, check=True, env={**os.environ, 'no_proxy': '*'})
        self.assertGreater(len(json.loads(result.stdout)['choices'][0]['text'].split()), 5)

    def test_prompts(self):
        ids = self.generate('--max-tokens', '1')['prompt_token_ids']
        greedy = {'temperature': 0, 'max_tokens': 9}
        text = complete(self.server, **greedy)['choices'][0]['text']
        for prompt in (ids, [ids], [PROMPT]):
            self.assertEqual(complete(self.server, prompt=prompt, **greedy)['choices'][0]['text'],
                             text)
        for prompt in (PROMPT, ids):
            answer = complete(self.server, prompt=prompt, echo=True, **greedy)
            self.assertEqual(answer['choices'][0]['text'], PROMPT + text)
        self.assertLessEqual(complete(self.server)['usage']['completion_tokens'], 16)

    def test_stop_strings(self):
        greedy = {'temperature': 0, 'max_tokens': 60, 'ignore_eos': True}
        text = complete(self.server, **greedy)['choices'][0]['text']
        stop = text[20:24]
        for included in (False, True):
            expected = text[:text.index(stop) + (len(stop) if included else 0)]
            parameters = {'stop': stop, 'include_stop_str_in_output': included, **greedy}
            choice, = complete(self.server, **parameters)['choices']
            self.assertEqual((choice['text'], choice['finish_reason']), (expected, 'stop'))
            chunks = [json.loads(data) for data in events(self.server, **parameters)[:-1]]
            self.assertEqual(''.join(chunk['choices'][0]['text'] for chunk in chunks), expected)

    def test_logprobs(self):
        parameters = {'max_tokens': 8, 'temperature': 0, 'logprobs': 2}
        choice, = complete(self.server, **parameters)['choices']
        logprobs = choice['logprobs']
        self.assertEqual(''.join(logprobs['tokens']), choice['text'])
        self.assertEqual({len(values) for values in logprobs.values()}, {8})
        for token, value, top in zip(logprobs['tokens'], logprobs['token_logprobs'],
                                     logprobs['top_logprobs']):
            self.assertEqual(max(top, key=top.get), token)  # greedy
            self.assertEqual(top[token], value)
        offset = logprobs['text_offset'][3]
        self.assertTrue(choice['text'][offset:].startswith(logprobs['tokens'][3]))

        chunks = [json.loads(data)['choices'][0]
                  for data in events(self.server, **parameters)[:-1]]
        values = [value for chunk in chunks if chunk['logprobs']
                  for value in chunk['logprobs']['token_logprobs']]
        self.assertEqual(values, logprobs['token_logprobs'])

        status, _, text = call(self.server, 'POST', '/v1/completions',
                               {'prompt': PROMPT, 'echo': True, **parameters})
        self.assertEqual(status, 200, text)
        echoed, = json.loads(text)['choices']
        self.assertEqual(echoed['text'], PROMPT + choice['text'])
        tokens = echoed['logprobs']['tokens']
        self.assertEqual(''.join(tokens), echoed['text'])
        self.assertEqual(echoed['logprobs']['token_logprobs'].count(None), 1)
        self.assertEqual(echoed['logprobs']['token_logprobs'][-8:], logprobs['token_logprobs'])

    def test_penalties_and_biases_reach_the_sampler(self):
        greedy = {'temperature': 0, 'max_tokens': 30, 'ignore_eos': True}
        plain = complete(self.server, **greedy)['choices'][0]['text']
        for change in ({'frequency_penalty': 2}, {'presence_penalty': 2},
                       {'repetition_penalty': 2}):
            self.assertNotEqual(complete(self.server, **greedy, **change)['choices'][0]['text'],
                                plain)
        forced = complete(self.server, **greedy, logit_bias={'65': 100})['choices'][0]['text']
        self.assertEqual(len(set(forced.split())), 1)

    def test_refuses_in_openais_form(self):
        headers, error = self.assert_refused(400, {'prompt': PROMPT, 'temperature': -1},
                                             'temperature', 'temperature: -1')
        self.assertEqual(error['type'], 'invalid_request_error')
        self.assertNotIn('Retry-After', headers)
        _, error = self.assert_refused(400, {'prompt': PROMPT, 'max_tokens': 100000}, 'max_tokens')
        self.assertEqual(error['code'], 'context_length_exceeded')
        _, error = self.assert_refused(400, {'prompt': [1] * 5000}, 'prompt', '5000', '512')
        self.assertEqual(error['code'], 'context_length_exceeded')
        self.assert_refused(400, {'prompt': PROMPT, 'top_p': 'x'}, 'top_p')
        self.assert_refused(400, {}, 'prompt')
        self.assert_refused(400, b'{"prompt', None, 'not JSON')
        _, error = self.assert_refused(404, {'prompt': PROMPT, 'model': 'gpt-4'}, 'model', 'gpt-4')
        self.assertEqual(error['code'], 'model_not_found')
        self.assert_refused(404, {}, None, '/v1/nothing', path='/v1/nothing')
        self.assert_refused(413, b' ' * (4 << 20), None)
        # errors in a stream's request are no stream yet
        self.assert_refused(400, {'prompt': PROMPT, 'stream': True, 'top_p': 2}, 'top_p')

    def test_not_http(self):
        host, port = self.server.http_address.rsplit(':', 1)
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as client:
            client.sendall(b'nonsense\r\n\r\n')
            self.assertTrue(client.recv(100).startswith(b'HTTP/1.1 400'))

    def test_a_body_is_json_whatever_its_type(self):
        body = json.dumps({'prompt': PROMPT, 'max_tokens': 1, 'user': 'u' * 10000}).encode()
        for kind in ('application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'):
            status, _, text = call(self.server, 'POST', '/v1/completions', body,
                                   {'Content-Type': kind})  # the first kind is curl's
            self.assertEqual(status, 200, text)

    def test_keeps_a_connection(self):
        with contextlib.closing(connect(self.server)) as connection:
            for _ in range(20):
                connection.request('POST', '/v1/completions',
                                   json.dumps({'prompt': PROMPT, 'max_tokens': 1}))
                response = connection.getresponse()
                self.assertEqual(response.status, 200)
                response.read()
                own = connection.sock.getsockname()
            self.assertEqual(own, connection.sock.getsockname())

    def test_disconnect_frees_the_blocks(self):
        def cancelled():
            return metrics(self.server).get(
                'strata_sequences_finished_total{reason="cancelled"}', 0)

        for stream in (True, False):
            before = cancelled()
            connection = connect(self.server)
            connection.request('POST', '/v1/completions',
                               json.dumps({'prompt': PROMPT, 'max_tokens': 480, 'stream': stream,
                                           'n': 32, 'ignore_eos': True}))
            if stream:
                connection.getresponse().read(10)
            else:
                wait_for(lambda: metrics(self.server)['vllm:num_requests_running'] > 0)
            connection.close()
            wait_for(lambda: metrics(self.server)['strata_cache_blocks{state="used"}'] == 0)
            self.assertEqual(metrics(self.server)['vllm:num_requests_running'], 0)
            wait_for(lambda: cancelled() > before)

    def test_many_streams_leave_room(self):
        count = 40
        connections = [connect(self.server) for _ in range(count)]
        for connection in connections:
            connection.request('POST', '/v1/completions',
                               json.dumps({'prompt': PROMPT, 'max_tokens': 100, 'stream': True,
                                           'temperature': 0, 'ignore_eos': True}))
        self.assertEqual(call(self.server, 'GET', '/healthz')[0], 200)
        texts = {re.sub(r'cmpl-\w+-\w+|"created":\d+', '', ''.join(
            json.loads(line[6:])['choices'][0]['text']
            for line in connection.getresponse().read().decode().split('\n\n')
            if line.startswith('data: {'))) for connection in connections}
        self.assertEqual(len(texts), 1)
        for connection in connections:
            connection.close()


class Observed(unittest.TestCase):

    def test_metrics_and_log_equal_what_was_asked_for(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'access.log')
            with Served(BINARY, '--access-log', path) as server:
                prompt_tokens = 0
                for i in range(5):
                    answer = complete(server, max_tokens=10 + i, ignore_eos=True)
                    prompt_tokens += answer['usage']['prompt_tokens']
                call(server, 'POST', '/v1/completions', {'prompt': ''},
                     {'X-Request-Id': 'mine'})
                seen = metrics(server)
                self.assertEqual(seen['strata_rejections_total{reason="invalid"}'], 1)
                self.assertEqual(seen['vllm:num_requests_running'], 0)
                self.assertEqual(seen['strata_cache_blocks{state="used"}'], 0)
                self.assertGreater(seen['strata_step_sequences_count'], 0)
                self.assertEqual(seen['strata_requests_total'], 5)
                self.assertEqual(seen['strata_sequences_finished_total{reason="length"}'], 5)
                self.assertEqual(seen['strata_prompt_tokens_total'], prompt_tokens)
                self.assertEqual(seen['strata_generated_tokens_total'], 60)
                self.assertEqual(seen['strata_time_to_first_token_seconds_count'], 5)
                self.assertEqual(seen['strata_inter_token_latency_seconds_count'], 55)
            with open(path) as log:
                lines = [json.loads(line) for line in log]
        self.assertEqual([line['generated_tokens'] for line in lines], [10, 11, 12, 13, 14, 0])
        self.assertEqual({line['front'] for line in lines}, {'http'})
        self.assertEqual([line['status'] for line in lines], ['OK'] * 5 + ['INVALID_ARGUMENT'])
        self.assertEqual(lines[-1]['request_id'], 'mine')
        self.assertEqual(lines[-1]['reason'], 'refused')

    def test_a_full_log_disk_harms_nobody(self):
        with Served(BINARY, '--access-log', '/dev/full') as server:
            for _ in range(3):
                complete(server, max_tokens=1)
            wait_for(lambda: metrics(server)['strata_access_log_dropped_lines_total'] == 3)
            complete(server, max_tokens=1)
            server.send(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)
            warning, = [line for line in server.log if 'access log' in line]
            self.assertIn('No space left on device', warning)
            self.assertIn('warn', warning)


    def test_a_trace_is_whole_after_sigterm(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'trace.json')
            with Served(BINARY, '--trace', path, '--drain-timeout', '10ms') as server:
                reader = threading.Thread(
                    target=lambda: events(server, max_tokens=480, n=32, ignore_eos=True))
                reader.start()
                wait_for(lambda: metrics(server)['vllm:num_requests_running'] > 0)
                server.send(signal.SIGTERM)
                reader.join()
                self.assertEqual(server.wait(), 0)
            with open(path) as trace:
                seen = json.load(trace)
        began = [e['id'] for e in seen if e['ph'] == 'b' and e['name'] == 'request']
        ended = [e['id'] for e in seen if e['ph'] == 'e' and e['name'] == 'request']
        self.assertEqual((began, sorted(ended)), ([*range(1, 33)], [*range(1, 33)]))
        self.assertGreater(sum(e['name'] == 'step' for e in seen), 0)
        self.assertEqual(seen[-1]['args'], {'dropped_events': 0})


class Drain(unittest.TestCase):

    def test_streams_end_and_readyz_says_no(self):
        with Served(BINARY) as server, contextlib.closing(stand_still(server, n=2)) as reader:
            self.assertTrue(reader.recv(1))  # it runs, and cannot end before it is read
            server.send(signal.SIGTERM)
            wait_for(lambda: call(server, 'GET', '/readyz')[::2] == (503, 'draining\n'))
            status, headers, _ = call(server, 'POST', '/v1/completions', {'prompt': PROMPT})
            self.assertEqual(status, 503)
            self.assertEqual(headers['Retry-After'], '1')
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # now reads fast
            answer = b''
            while b'data: [DONE]\n\n' not in answer:
                piece = reader.recv(1 << 20)
                self.assertTrue(piece, answer[-1000:])
                answer += piece
            self.assertEqual(answer.count(b'"finish_reason":"length"'), 2)
            self.assertEqual(server.wait(), 0)

    def test_what_outlives_the_limit_ends_with_an_error_event(self):
        with Served(BINARY, '--drain-timeout', '0ms') as server:
            connection = connect(server)
            connection.request('POST', '/v1/completions',
                               json.dumps({'prompt': PROMPT, 'max_tokens': 480, 'stream': True,
                                           'ignore_eos': True}))
            response = connection.getresponse()
            server.send(signal.SIGTERM)
            *_, last, done, end = response.read().decode().split('\n\n')
            connection.close()
            self.assertEqual((done, end), ('data: [DONE]', ''))
            if 'finish_reason":"length' not in last:  # otherwise it had already ended
                self.assertIn('shutting down', json.loads(last[6:])['error']['message'])
            self.assertEqual(server.wait(), 0)

    def test_no_http(self):
        with Served(BINARY, '--http-address', '') as server:
            self.assertIsNone(server.http_address)


if __name__ == '__main__':
    unittest.main()
