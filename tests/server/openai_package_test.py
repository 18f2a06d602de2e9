#!/usr/bin/env python3
"""OpenAI's own Python package against the server: openai_package_test.py BUILD/bin/strata.

Debian has no such package, so this skips itself where it is missing. By hand:

    python3 -m venv /tmp/openai && /tmp/openai/bin/pip install openai
    /tmp/openai/bin/python tests/server/openai_package_test.py build/bin/strata
"""

import concurrent.futures
import os
import signal
import sys
import unittest

try:
    import openai
except ImportError:
    openai = None

from strata_http import metrics, wait_for
from strata_process import TIMEOUT, Served

BINARY = sys.argv.pop(1)
PROMPT = 'Once upon a time'
MODEL = 'svformer'


@unittest.skipIf(openai is None, 'the Python package openai is not installed')
class OpenAiPackage(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        os.environ['no_proxy'] = '*'
        cls.server = Served(BINARY).__enter__()
        cls.client = cls.connect(cls.server)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__()

    @staticmethod
    def connect(server):
        return openai.OpenAI(base_url=f'http://{server.http_address}/v1', api_key='none',
                             timeout=TIMEOUT, max_retries=0)

    def complete(self, **parameters):
        return self.client.completions.create(
            **{'model': MODEL, 'prompt': PROMPT, 'temperature': 0, 'max_tokens': 20, **parameters})

    def test_models(self):
        model, = self.client.models.list().data
        self.assertEqual((model.id, model.object, model.owned_by), (MODEL, 'model', 'strata'))
        self.assertGreater(model.created, 0)
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve('gpt-4')

    def test_completion(self):
        answer = self.complete()
        choice, = answer.choices
        self.assertEqual(answer.object, 'text_completion')
        self.assertEqual(answer.model, MODEL)
        self.assertEqual((choice.index, choice.finish_reason, choice.logprobs),
                         (0, 'length', None))
        self.assertGreater(len(choice.text.split()), 5)
        usage = answer.usage
        self.assertEqual(usage.completion_tokens, 20)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + 20)
        self.assertGreaterEqual(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual(self.complete(prompt=[PROMPT]).choices[0].text, choice.text)

    def test_stream(self):
        whole = self.complete(seed=3, temperature=0.8, n=2)
        texts, reasons = {0: '', 1: ''}, {}
        with self.complete(seed=3, temperature=0.8, n=2, stream=True,
                           stream_options={'include_usage': True}) as stream:
            chunks = list(stream)
        usage = chunks.pop()
        self.assertEqual(usage.choices, [])
        self.assertEqual(usage.usage.completion_tokens, whole.usage.completion_tokens)
        for chunk in chunks:
            choice, = chunk.choices
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
        self.assertEqual([texts[0], texts[1]], [choice.text for choice in whole.choices])
        self.assertEqual([reasons[0], reasons[1]],
                         [choice.finish_reason for choice in whole.choices])
        self.assertNotEqual(texts[0], texts[1])

    def test_leaving_a_stream_cancels_it(self):
        with self.complete(max_tokens=480, n=8, stream=True,
                           extra_body={'ignore_eos': True}) as stream:
            next(iter(stream))
        wait_for(lambda: metrics(self.server)['vllm:num_requests_running'] == 0)
        self.assertGreater(
            metrics(self.server)['strata_sequences_finished_total{reason="cancelled"}'], 0)

    def test_logprobs_and_echo(self):
        choice, = self.complete(logprobs=3, max_tokens=6).choices
        logprobs = choice.logprobs
        self.assertEqual(''.join(logprobs.tokens), choice.text)
        self.assertEqual(len(logprobs.token_logprobs), 6)
        for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs,
                                     logprobs.top_logprobs):
            self.assertEqual(top[token], value)
        echoed, = self.complete(logprobs=0, echo=True, max_tokens=6).choices
        self.assertEqual(echoed.text, PROMPT + choice.text)
        self.assertIsNone(echoed.logprobs.token_logprobs[0])
        self.assertEqual(echoed.logprobs.token_logprobs[-6:], logprobs.token_logprobs)

    def test_stop_and_penalties_and_vllms_parameters(self):
        text = self.complete().choices[0].text
        cut, = self.complete(stop=[text[10:14], 'never']).choices
        self.assertEqual((cut.text, cut.finish_reason), (text[:text.index(text[10:14])], 'stop'))
        self.assertNotEqual(self.complete(frequency_penalty=2, max_tokens=60).choices[0].text,
                            self.complete(max_tokens=60).choices[0].text)
        forced = self.complete(logit_bias={'65': 100}, extra_body={'ignore_eos': True})
        self.assertEqual(len(set(forced.choices[0].text.split())), 1)
        self.assertEqual(self.complete(extra_body={'top_k': 1}, temperature=1).choices[0].text,
                         text)
        self.complete(best_of=2, n=2, user='somebody')

    def test_errors(self):
        def fails(kind, param, **parameters):
            with self.assertRaises(kind) as raised:
                self.complete(**parameters)
            self.assertEqual(raised.exception.param, param)
            return raised.exception
        error = fails(openai.BadRequestError, 'temperature', temperature=-1)
        self.assertEqual((error.status_code, error.type), (400, 'invalid_request_error'))
        self.assertIn('temperature: -1', str(error))
        fails(openai.BadRequestError, 'max_tokens', max_tokens=100000)
        fails(openai.BadRequestError, 'suffix', suffix='x')
        fails(openai.BadRequestError, 'top_p', top_p=2, stream=True)
        error = fails(openai.NotFoundError, 'model', model='gpt-4')
        self.assertEqual(error.code, 'model_not_found')
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model=MODEL, messages=[])

    def test_a_full_queue_and_a_server_that_goes(self):
        def ask(_):
            try:
                return client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=400,
                                                 extra_body={'ignore_eos': True})
            except openai.RateLimitError as error:
                return error

        with Served(BINARY, '--max-queue', '1', '--max-running', '1') as server, \
             self.connect(server) as client:
            with concurrent.futures.ThreadPoolExecutor(12) as threads:
                answers = list(threads.map(ask, range(12)))
            refused = [each for each in answers if isinstance(each, openai.RateLimitError)]
            self.assertGreater(len(refused), 0)
            self.assertLess(len(refused), 12)
            self.assertEqual(refused[0].status_code, 429)
            self.assertGreaterEqual(int(refused[0].response.headers['retry-after']), 1)
            with client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=480, n=8,
                                           stream=True, extra_body={'ignore_eos': True}) as stream:
                server.send(signal.SIGTERM)
                tokens = sum(1 for chunk in stream for choice in chunk.choices if choice.text)
            self.assertGreater(tokens, 8)
            self.assertEqual(server.wait(), 0)
            with self.assertRaises(openai.APIConnectionError):
                ask(None)


if __name__ == '__main__':
    unittest.main()
