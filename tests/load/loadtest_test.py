#!/usr/bin/env python3
"""Whole runs of the load-test client: loadtest_test.py BUILD/bin/strata BUILD/bin/strata-loadtest

Against the default model, or a small one with random weights; with everything that can go wrong
between a client and a server.
"""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'server'))
from strata_http import metrics, total, wait_for  # noqa: E402
from strata_process import TIMEOUT, Served, run  # noqa: E402

BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)


class LoadTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def serve(self, *flags):
        server = Served(BINARY, *flags)
        self.addCleanup(server.__exit__)
        return server.__enter__()

    def load(self, server, *flags, code=0):
        """Output of a run that must end with `code`, and its result."""
        path = self.folder / 'result.json'
        path.unlink(missing_ok=True)
        done = run(LOADTEST, '--server', server.address, '--metrics', server.http_address,
                   '--json', path, *flags)
        self.assertEqual(done.returncode, code, done.stderr)
        return done, json.loads(path.read_text()) if path.exists() else None

    def start(self, *flags):
        """A run in the background; its result goes to result.json."""
        process = subprocess.Popen([LOADTEST, '--json', self.folder / 'result.json', *flags],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        return process

    def wait_for_answers(self, server):
        """Until each of four users has one and asks again."""
        wait_for(lambda: total(metrics(server), 'strata_requests_total') >= 8)

    def test_figures_agree_with_the_server(self):
        server = self.serve()
        done, result = self.load(server, '--users', '8', '--requests', '120', '--input-tokens',
                                 'uniform:5:60', '--output-tokens', 'uniform:2:30',
                                 '--cancel-share', '0.2', '--prefix-groups', '2', '--prefix-tokens',
                                 '64', '--goodput', 'ttft:60000', '--save-detailed',
                                 '--mix', '1:priority=-1', '--mix', '1:temperature=0',
                                 '--csv', str(self.folder / 'requests.csv'))
        self.assertEqual(result['completed'] + result['cancelled'], 120)
        self.assertGreater(result['cancelled'], 5)
        self.assertEqual(result['failed'] + result['unsent'] + result['unfinished'], 0)
        self.assertEqual(result['good_share'], 1)
        with open(self.folder / 'requests.csv', newline='') as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), 120)
        seen = metrics(server)
        received = sum(int(row['output_tokens']) for row in rows)
        self.assertEqual(sum(1 for row in rows if row['outcome'] == 'completed'),
                         result['completed'])
        # The server sent tokens that were on their way at a cancel, and no client counted them.
        self.assertLessEqual(received, total(seen, 'strata_generated_tokens_total'))
        self.assertGreaterEqual(received + 120, total(seen, 'strata_generated_tokens_total'))
        # A group's first prompt is computed, the others find it cached: 64 tokens are two blocks.
        self.assertEqual(result['cached_tokens'],
                         sum(int(row['cached_tokens'] or 0) for row in rows))
        self.assertGreater(result['cached_tokens'], 64 * 60)
        # The server may get a user's next request before the cancel of the last one.
        self.assertLessEqual(result['server_max_running'], 2 * 8)
        for row in rows:
            if row['outcome'] == 'completed':
                # The server's own times and the client's are of the same request.
                served = sum(float(row[f'{part}_s']) for part in ('queue', 'prefill', 'decode'))
                self.assertLessEqual(served * 1e3, float(row['e2el_ms']) + 0.1)
        self.assertEqual(len(result['generated_texts']), 120)
        self.assertEqual(len(result['itls']), 120)
        self.assertIn('requests: ', done.stdout)

    def test_the_experiment_tells_its_results(self):
        server = self.serve()
        _, result = self.load(server, '--users', '4', '--requests', '8', '--output-tokens', '4',
                              '--goodput', 'e2el:60000')
        for times, plan in enumerate(('plain', 'svformer', 'reuse', 'svformer-reuse'), 1):
            result['label'] = plan
            result['server_held_when_full'] = 10 * times
            (self.folder / f'{plan}.json').write_text(json.dumps(result))
            for order in (1, 2, 3):
                result['server_reached_before_preemption'] = 100 * times + order
                (self.folder / f'{plan}.fill.{order}.json').write_text(json.dumps(result))
        script = pathlib.Path(__file__).with_name('sharing_plot.py')
        done = run(sys.executable, script, self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        table = (self.folder / 'sharing.md').read_text()
        self.assertIn('| 102, 101 to 103 | 202 (1.98x), 201 to 203 | 302 (2.96x)', table)
        self.assertIn('| 10 | 20 (2.00x) | 30 (3.00x) | 40 (4.00x) |', table)
        self.assertIn('</svg>', (self.folder / 'sharing.svg').read_text())

    def test_nobody_there(self):
        for address in ('127.0.0.1:1', 'localhost:nonsense'):
            done = run(LOADTEST, '--server', address, '--users', '1', '--requests', '1')
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertTrue(done.stderr.startswith(f'strata-loadtest: {address}: '), done.stderr)

    def test_the_wrong_port(self):
        server = self.serve()
        done = run(LOADTEST, '--server', server.http_address, '--users', '1', '--requests', '1')
        self.assertEqual(done.returncode, 1)
        self.assertIn(server.http_address, done.stderr)
        done = run(LOADTEST, '--server', server.address, '--metrics', server.address, '--users',
                   '1', '--requests', '1')
        self.assertEqual(done.returncode, 1)
        self.assertIn('/metrics: ', done.stderr)

    def test_a_signal_keeps_what_was_measured(self):
        server = self.serve()
        process = self.start('--server', server.address, '--users', '4', '--duration', '10m')
        self.wait_for_answers(server)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn('time to first token', output)
        result = json.loads((self.folder / 'result.json').read_text())
        self.assertGreater(result['completed'], 0)
        self.assertEqual(result['stopped'], 'interrupted')
        self.assertLess(result['duration'], 60)

    def test_a_server_that_dies(self):
        server = self.serve()
        process = self.start('--server', server.address, '--users', '4', '--duration', '10m')
        self.wait_for_answers(server)
        server.send(signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn('the server is gone', errors)
        result = json.loads((self.folder / 'result.json').read_text())
        self.assertGreater(result['completed'], 0)
        self.assertGreater(result['failed'], 0)

    def test_a_server_that_stands_still(self):
        server = self.serve()
        process = self.start('--server', server.address, '--users', '4', '--duration', '4s',
                             '--drain-timeout', '1s')
        self.wait_for_answers(server)
        server.send(signal.SIGSTOP)
        _, errors = process.communicate(timeout=TIMEOUT)
        server.send(signal.SIGCONT)
        self.assertEqual(process.returncode, 0, errors)
        result = json.loads((self.folder / 'result.json').read_text())
        self.assertEqual(result['unfinished'], 4)
        self.assertGreater(result['completed'], 0)

    def test_requests_that_are_refused_are_failures(self):
        done, result = self.load(self.serve(), '--users', '1', '--requests', '3', '--mix',
                                 '1:temperature=-1', code=1)
        self.assertEqual(result['failed'], 3)
        self.assertIn('temperature', result['errors_by_message'][0]['message'])
        self.assertIn('error, 3 times', done.stdout)

    def test_a_trace_with_bad_lines(self):
        trace = self.folder / 'trace.csv'
        trace.write_text('TIMESTAMP,ContextTokens,GeneratedTokens\n'
                         '2023-11-16 18:15:46.6805900,374,44\n'
                         '2023-11-16 18:15:50.9951690,396\n'
                         '2023-11-16 18:15:51.2224670,0,55\n'
                         '2023-11-16 18:15:52.2224670,87,5\n')
        done, result = self.load(self.serve(), '--trace', str(trace), '--trace-speed', '10',
                                 '--length-scale', '0.5')
        self.assertEqual(result['completed'], 2)
        self.assertEqual(result['total_input_tokens'], 187 + 44)
        self.assertEqual(result['total_output_tokens'], 22 + 3)
        self.assertIn(f'{trace}: line 3: ', done.stderr)
        self.assertIn(f'{trace}: line 4: no input tokens', done.stderr)
        self.assertIn('2 lines skipped, 2 requests read', done.stderr)
        self.assertAlmostEqual(result['duration'], 0.554, delta=10)

    def test_prompts_from_a_file_in_talks(self):
        prompts = self.folder / 'prompts.txt'
        prompts.write_text('Once upon a time\n\nThere was an old king\n')
        done, result = self.load(self.serve(), '--prompts', str(prompts), '--users', '2',
                                 '--turns', '3', '--requests', '12', '--output-tokens', '40')
        self.assertEqual(result['completed'], 12)
        self.assertIn('line 2: empty', done.stderr)
        # Later turns begin with earlier ones; a block of 32 tokens of them is found again.
        self.assertGreater(result['cached_tokens'], 0)

    def test_files_that_cannot_be_used(self):
        server = self.serve()
        for flags in (['--trace', '/nonexistent'], ['--prompts', '/nonexistent', '--users', '1',
                                                    '--requests', '1']):
            done, _ = self.load(server, *flags, code=1)
            self.assertEqual(done.stderr, 'strata-loadtest: /nonexistent: cannot be read\n')
        done, result = self.load(server, '--users', '1', '--requests', '1', '--html',
                                 '/nonexistent/page.html', code=1)
        self.assertEqual(result['completed'], 1)
        self.assertIn('/nonexistent/page.html: cannot be written', done.stderr)

    def test_compares_servers_and_results(self):
        plain = self.serve('--shape', 'reference-2m', '--threads', '1')
        shared = self.serve('--shape', 'reference-2m', '--threads', '1', '--cross-layer',
                            'svformer-reuse')
        earlier = self.folder / 'earlier.json'
        compared = self.folder / 'compared.json'
        flags = ['--users', '3', '--requests', '9', '--output-tokens', '30', '--input-tokens', '20']
        self.load(plain, *flags)
        os.rename(self.folder / 'result.json', earlier)
        done = run(LOADTEST, *flags, '--repeats', '2', '--json', compared, '--compare',
                   f'plain={plain.address},{plain.http_address}', f'shared={shared.address}',
                   f'before={earlier}')
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(compared.read_text())
        self.assertEqual([report['label'] for report in result['results']],
                         ['plain', 'shared', 'before'])
        self.assertEqual([report['completed'] for report in result['results']], [9, 9, 9])
        self.assertEqual(result['results'][0]['server']['bytes_per_token'], 4096)
        self.assertAlmostEqual(result['ratios']['mean_cache_bytes'][1], 768 / 4096, delta=0.01)
        self.assertEqual(len(result['results'][1]['repeats']), 2)
        self.assertIn('std', result['results'][1]['spread']['p50_ttft_ms'])
        self.assertIn('+-', done.stdout)
        done = run(LOADTEST, '--compare', compared, earlier)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f'{compared}: not a result of strata-loadtest', done.stderr)

    def test_a_shape_without_a_model(self):
        server = self.serve('--shape', 'reference-2m')
        done = run(BINARY, 'generate', '--server', server.address, '--prompt', 'é?', '--json',
                   '--max-tokens', '12')
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer['prompt_token_ids'], list('é?'.encode()))
        self.assertEqual(len(answer['token_ids']), 12)
        words = ''.join(f' {token}' for token in answer['token_ids'] if token >= 256)
        self.assertIn(words.split()[0], answer['text'])
        done = run(BINARY, 'serve', '--shape', 'none-such')
        self.assertEqual(done.returncode, 1)
        self.assertIn('shape: "none-such" is not one of reference-2m', done.stderr)

    def test_a_sweep_finds_the_knee(self):
        # Requests of 100 tokens one after the other: a known number fits a second.
        server = self.serve('--max-running', '1', '--threads', '1')
        flags = ['--input-tokens', '10', '--output-tokens', '100']
        _, alone = self.load(server, '--users', '1', '--requests', '20', *flags)
        capacity = alone['request_throughput']
        _, result = self.load(server, '--sweep', '--rate', f'{capacity / 3:.3f}', '--duration',
                              '2s', '--burstiness', 'inf', '--drain-timeout', '60s', *flags)
        # The rate that a busy machine sustains changes from second to second. The search's own
        # test, on a simulated clock, checks the rates.
        self.assertGreater(len(result['sweep']), 3)
        sustained = [point['rate'] for point in result['sweep'] if point['sustained']]
        self.assertTrue(sustained)  # the rate is halved until one is
        self.assertEqual(result['knee'], max(sustained))
        self.assertFalse(all(point['sustained'] for point in result['sweep']))

    def test_the_live_view(self):
        """On a terminal, in place; elsewhere lines, every ten seconds."""
        server = self.serve()
        ours, theirs = os.openpty()
        process = subprocess.Popen([LOADTEST, '--server', server.address, '--metrics',
                                    server.http_address, '--users', '2', '--duration', '1s'],
                                   stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = bytearray()

        def read():
            try:
                while piece := os.read(ours, 4096):
                    shown.extend(piece)
            except OSError:  # its other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        self.assertEqual(process.wait(TIMEOUT), 0)
        reader.join()
        os.close(ours)
        text = shown.decode()
        self.assertIn('\033[4F\033[J', text)
        self.assertIn('100 %', text)
        self.assertRegex(text, r'in flight [12], ended \d+, failed 0')
        self.assertRegex(text, r'server: running \d, waiting 0, cache \d+ %')


if __name__ == '__main__':
    unittest.main()
