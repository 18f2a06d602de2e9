#!/usr/bin/env python3
"""The strata program as a user runs it, on the model that ships: cli_test.py BUILD/bin/strata."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from strata_http import metrics, total, wait_for
from strata_process import Served, run, without_strata_variables

BINARY = sys.argv.pop(1)
PROMPT = 'Once upon a time'


def strata(*arguments, **options):
    return run(BINARY, *arguments, env=without_strata_variables(), **options)


class CommandLine(unittest.TestCase):

    def assert_fails(self, result, code, *words):
        self.assertEqual(result.returncode, code, result)
        self.assertEqual(result.stderr.count('\n'), 1, result.stderr)
        self.assertTrue(result.stderr.startswith('strata: '), result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_help_and_version(self):
        self.assertRegex(strata('--version').stdout, r'^strata \d+\.\d+\.\d+\n$')
        self.assertIn('serve', strata('--help').stdout)
        for name in ('serve', 'generate', 'plan', 'eval', 'health', 'key'):
            result = strata(name, '--help')
            self.assertEqual(result.returncode, 0)
            self.assertIn('--', result.stdout)

    def test_bad_flags(self):
        self.assert_fails(strata(), 2)
        self.assert_fails(strata('serve', '--cache-bytes', '1XB'), 2, '--cache-bytes', '1XB')
        self.assert_fails(strata('serve', '--grpc-address', 'here'), 2, "'here'", 'HOST:PORT')
        self.assert_fails(strata('serve', '--http-address', 'here'), 2, "'here'", 'HOST:PORT')

    def test_plan_of_the_shipped_model(self):
        result = strata('plan', '--json')
        self.assertEqual(result.returncode, 0, result.stderr)
        plan = json.loads(result.stdout)
        layers = len(plan['layers'])
        self.assertAlmostEqual(plan['ratio'], (layers + 1) / (2 * layers))
        self.assertEqual(strata('plan').returncode, 0)

    def test_plan_of_a_cache_in_8_bits(self):
        def plan(cache_dtype):
            result = strata('plan', '--json', '--cache-dtype', cache_dtype)
            self.assertEqual(result.returncode, 0, result.stderr)
            return json.loads(result.stdout)

        half, both, keys = plan('bf16'), plan('int8'), plan('k=int8,v=bf16')
        row = half['head_dim']
        for kind in ('key_bytes_per_token', 'value_bytes_per_token'):
            self.assertEqual(both[kind] / half[kind], (row + 4) / (2 * row))
        self.assertEqual(keys['key_bytes_per_token'], both['key_bytes_per_token'])
        self.assertEqual(keys['value_bytes_per_token'], half['value_bytes_per_token'])
        self.assertEqual([both['dtype'], keys['dtype']], ['int8', 'k=int8,v=bf16'])
        self.assertIn('cache in k=int8,v=bf16',
                      strata('plan', '--cache-dtype', 'k=int8,v=bf16').stdout)
        for command in ('plan', 'serve'):
            self.assert_fails(strata(command, '--cache-dtype', 'k=int4,v=bf16'), 1, 'cache-dtype',
                              'k=int4,v=bf16', 'auto, f32, bf16, f16, int8, fp8')

    def test_eval(self):
        with tempfile.TemporaryDirectory() as folder:
            text = os.path.join(folder, 'text')
            with open(text, 'w') as file:
                file.write('Once upon a time there was a king who had a daughter. ' * 40)
            result = strata('eval', '--text', text, '--window', '100', '--json')
            self.assertEqual(result.returncode, 0, result.stderr)
            whole = json.loads(result.stdout)
            self.assertGreater(whole['tokens'], 400)
            # Each window without its first token, with any other windows beside it.
            alone = json.loads(strata('eval', '--text', text, '--window', '100', '--json',
                                      '--threads', '1').stdout)
            self.assertEqual(alone['nats_per_token'], whole['nats_per_token'])
            exact = json.loads(strata('eval', '--text', text, '--window', '100', '--json',
                                      '--cache-dtype', 'f32').stdout)
            self.assertNotEqual(exact['nats_per_token'], whole['nats_per_token'])
            self.assertAlmostEqual(exact['perplexity'] / whole['perplexity'], 1, delta=0.005)
            small = json.loads(strata('eval', '--text', text, '--window', '100', '--json',
                                      '--cache-dtype', 'int8').stdout)
            self.assertEqual(small['cache_dtype'], 'int8')
            self.assertNotEqual(small['nats_per_token'], whole['nats_per_token'])
            self.assertAlmostEqual(small['perplexity'] / whole['perplexity'], 1, delta=0.02)
            part = json.loads(strata('eval', '--text', text, '--window', '100', '--tokens', '101',
                                     '--json').stdout)
            self.assertEqual(part['tokens'], 99)  # the last token is alone in its window
            self.assert_fails(strata('eval', '--text', text, '--window', '513'), 1, '--window',
                              '513', '2..511')
            self.assert_fails(strata('eval', '--text', folder + '/none'), 1, folder)
            self.assert_fails(strata('eval'), 2, '--text')

    def test_unknown_model(self):
        for command in ('plan', 'serve'):
            result = strata(command, '--model', '/no/such/model')
            self.assert_fails(result, 1, '/no/such/model')

    def test_a_model_that_is_not_whole(self):
        model = pathlib.Path(BINARY).resolve().parents[2] / 'deploy/models/svformer'
        with tempfile.TemporaryDirectory() as folder:
            self.assert_fails(strata('serve', '--model', folder), 1, folder, 'empty')
            half = pathlib.Path(folder, 'half')
            shutil.copytree(model, half)
            with open(half / 'model.safetensors', 'r+b') as file:
                file.truncate(1_000_000)
            self.assert_fails(strata('serve', '--model', half), 1, 'model.safetensors',
                              'truncated')
            os.unlink(half / 'model.safetensors')
            self.assert_fails(strata('serve', '--model', half), 1, 'model.safetensors')

    def test_less_memory_than_it_takes(self):
        result = strata('serve', '--memory-limit', '64MiB', '--cache-bytes', '1GiB')
        self.assert_fails(result, 1, 'memory: weights 3.', '+ cache 1024.0 MiB + workspace ',
                          'the limit, 64.0 MiB')
        self.assert_fails(strata('eval', '--text', __file__, '--memory-limit', '1MiB'), 1, 'memory:')

    def test_no_server(self):
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))  # taken, but not listening
            address = '127.0.0.1:%d' % unused.getsockname()[1]
            self.assert_fails(strata('generate', '--server', address, '--prompt', 'a'), 1, address)
            self.assert_fails(strata('health', '--server', address), 1, address)

    def test_full_disk(self):
        with open('/dev/full', 'w') as full:
            self.assert_fails(strata('plan', stdout=full), 1, 'No space left on device')


class Server(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = Served(BINARY).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def generate(self, *arguments, **options):
        return strata('generate', '--server', self.server.address, '--prompt', PROMPT, *arguments,
                      **options)

    def test_health(self):
        result = strata('health', '--server', self.server.address)
        self.assertEqual((result.returncode, result.stdout), (0, 'SERVING\n'))

    def test_json_and_text_agree(self):
        flags = ('--max-tokens', '40', '--temperature', '0.8', '--seed', '7')
        result = self.generate('--json', *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        answer = json.loads(result.stdout)
        self.assertEqual(len(answer['token_ids']), answer['metrics']['generated_tokens'])
        self.assertEqual(len(answer['prompt_token_ids']), answer['metrics']['prompt_tokens'])
        self.assertIn(answer['finish_reason'], ('stop', 'length'))
        self.assertEqual(answer['seed'], 7)
        self.assertTrue(answer['request_id'])
        cache = answer['metrics']['peak_cache_bytes']
        self.assertLess(cache['keys'] + cache['values'], answer['metrics']['plain_cache_bytes'])
        self.assertEqual(self.generate(*flags).stdout, answer['text'] + '\n')
        shown = self.generate('--metrics', *flags).stdout
        self.assertTrue(shown.startswith(answer['text']))
        self.assertIn('time to first token', shown)

    def test_stop_string(self):
        flags = ('--temperature', '0', '--max-tokens', '60')
        whole = json.loads(self.generate('--json', *flags).stdout)
        stop = whole['text'][20:27]  # some letters, across borders of tokens
        before = whole['text'][:whole['text'].index(stop)]
        cut = json.loads(self.generate('--json', '--stop', 'no such', '--stop', stop,
                                       *flags).stdout)
        self.assertEqual((cut['text'], cut['finish_reason']), (before, 'stop'))
        self.assertEqual(cut['token_ids'], whole['token_ids'][:len(cut['token_ids'])])
        self.assertEqual(len(cut['token_ids']), cut['metrics']['generated_tokens'])
        shown = self.generate('--stop', stop, '--include-stop-string', *flags).stdout
        self.assertEqual(shown, before + stop + '\n')

    def test_penalties_bias_and_logprobs(self):
        answer = json.loads(self.generate(
            '--json', '--temperature', '0', '--max-tokens', '30', '--ignore-eos', '--logprobs', '3',
            '--repetition-penalty', '100', '--logit-bias', '0=-100').stdout)
        self.assertEqual(len(set(answer['token_ids'])), 30)  # none twice
        self.assertEqual(len(answer['logprobs']), 30)
        for token_id, token in zip(answer['token_ids'], answer['logprobs']):
            self.assertEqual(len(token['top']), 3)
            if token['rank'] <= 3:
                self.assertEqual(token['top'][token['rank'] - 1],
                                 {'token_id': token_id, 'logprob': token['logprob']})
        self.assertNotIn('logprobs', json.loads(self.generate('--json').stdout))

    def test_prompt_from_a_file(self):
        with tempfile.NamedTemporaryFile('w') as file:
            file.write(PROMPT)
            file.flush()
            flags = ('--server', self.server.address, '--temperature', '0', '--max-tokens', '9')
            from_file = strata('generate', '--prompt-file', file.name, *flags)
            from_stdin = strata('generate', '--prompt-file', '-', *flags, input=PROMPT)
        direct = self.generate('--temperature', '0', '--max-tokens', '9')
        self.assertEqual(from_file.stdout, direct.stdout)
        self.assertEqual(from_stdin.stdout, direct.stdout)

    def test_the_log_says_why_the_cpu_stands_in_for_cuda(self):
        model = pathlib.Path(__file__).resolve().parents[2] / 'deploy' / 'models' / 'svformer'
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(BINARY, folder)
            # Not a library: it cannot be loaded, even if there is a driver.
            pathlib.Path(folder, 'libstrata_cuda.so').touch()
            for device, told in (('cpu', False), ('auto', True)):
                with Served(copy, '--model', str(model), '--device', device) as server:
                    line, = [line for line in server.log if ' on cpu, ' in line]
                self.assertEqual('(device cuda: ' in line, told, line)

    def test_server_refuses(self):
        for flags, field in ((('--temperature', '-1'), 'temperature'),
                             (('--top-p', 'nan'), 'top_p'),
                             (('--max-tokens', '100000'), 'max_tokens'),
                             (('--stop', 'a' * 257), 'stop'),
                             (('--n', '65'), 'n'),
                             (('--min-tokens', '9', '--max-tokens', '8'), 'min_tokens')):
            result = self.generate(*flags)
            self.assertEqual(result.returncode, 1)
            self.assertIn('INVALID_ARGUMENT: %s: ' % field, result.stderr)

    def test_full_disk_and_closed_pipe(self):
        with open('/dev/full', 'w') as full:
            result = self.generate('--ignore-eos', stdout=full)
        self.assertEqual(result.returncode, 1)
        self.assertIn('No space left on device', result.stderr)
        pipe_end, write_end = os.pipe()
        os.close(pipe_end)
        result = self.generate('--ignore-eos', stdout=write_end)
        os.close(write_end)
        self.assertEqual((result.returncode, result.stderr), (1, ''))

    def test_interrupt_cancels(self):
        process = subprocess.Popen(
            [BINARY, 'generate', '--server', self.server.address, '--prompt', PROMPT,
             '--ignore-eos', '--max-tokens', '480'],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        if process.returncode != 0:  # otherwise it had already ended
            self.assertEqual((process.returncode, error), (1, 'strata: cancelled\n'))

    def test_port_in_use(self):
        for used in (('--grpc-address', self.server.address, '--http-address', ''),
                     ('--http-address', self.server.http_address)):
            result = strata('serve', *used)
            self.assertEqual(result.returncode, 1)
            self.assertEqual(result.stderr.splitlines()[-1], 'strata: cannot listen on %s: %s' %
                             (used[1], 'Address already in use'))


class Signals(unittest.TestCase):

    def test_sigterm_drains(self):
        with Served(BINARY) as server:
            process = subprocess.Popen(
                [BINARY, 'generate', '--server', server.address, '--prompt', PROMPT, '--json',
                 '--ignore-eos', '--max-tokens', '300'],
                stdout=subprocess.PIPE, text=True)
            # The server has the request, or has already finished it.
            wait_for(lambda: metrics(server)['vllm:num_requests_running'] > 0 or
                     total(metrics(server), 'strata_requests_total') > 0)
            server.send(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0)
            self.assertEqual(json.loads(output)['metrics']['generated_tokens'], 300)
            self.assertEqual(server.wait(), 0)
            self.assertIn('drained', server.log[-1])


if __name__ == '__main__':
    unittest.main()
