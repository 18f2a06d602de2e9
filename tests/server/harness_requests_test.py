#!/usr/bin/env python3
"""Requests as load testers and evaluation harnesses send them: harness_requests_test.py BUILD/bin/strata.

guidellm, `vllm bench serve`, SGLang's bench_serving, genai-perf, inference-perf, lm-eval's tokenizer
over HTTP: each body is the program's, and is answered, or refused with the name of the field.
"""

import json
import sys
import unittest

from strata_http import call
from strata_process import Served

BINARY = sys.argv.pop(1)
MODEL = 'svformer'
PROMPT = 'Once upon a time'


class HarnessRequests(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = Served(BINARY).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def complete(self, headers=None, **body):
        status, answered, text = call(self.server, 'POST', '/v1/completions',
                                      {'model': MODEL, 'prompt': PROMPT, **body}, headers)
        self.assertEqual(status, 200, text)
        return answered, text

    def stream(self, headers=None, **body):
        """The chunks of a stream, read as `vllm bench serve` does."""
        answered, text = self.complete(headers, stream=True, **body)
        self.assertTrue(answered['Content-Type'].startswith('text/event-stream'))
        messages = [message for message in text.split('\n\n') if message]
        self.assertEqual(messages.pop(), 'data: [DONE]')
        return answered, [json.loads(message.removeprefix('data: ')) for message in messages]

    def assert_refused(self, field, *words, **body):
        status, _, text = call(self.server, 'POST', '/v1/completions',
                               {'model': MODEL, 'prompt': PROMPT, 'max_tokens': 2, **body})
        self.assertEqual(status, 400, text)
        error = json.loads(text)['error']
        self.assertEqual((error['param'], error['type']), (field, 'invalid_request_error'))
        for word in (field, *words):
            self.assertIn(word, error['message'])

    def test_vllm_bench_serve(self):
        answered, chunks = self.stream(
            {'x-request-id': 'benchmark-serving-7'}, repetition_penalty=1.0, max_tokens=12,
            logprobs=None, stream_options={'include_usage': True}, ignore_eos=True,
            temperature=0.0)
        self.assertEqual(answered['x-request-id'], 'benchmark-serving-7')
        *texts, last = chunks
        # A chunk with choices is a token; only the chunk without has the usage.
        self.assertTrue(all(chunk['choices'] for chunk in texts))
        self.assertEqual(last['choices'], [])
        self.assertEqual(last['usage']['completion_tokens'], 12)
        self.assertGreater(last['usage']['prompt_tokens'], 0)
        self.assertTrue(''.join(chunk['choices'][0]['text'] for chunk in texts))
        # Sampling parameters of its command line, added to the others.
        _, chunks = self.stream(max_tokens=3, temperature=0.7, top_p=0.9, top_k=20, min_p=0.1,
                                frequency_penalty=0.0, presence_penalty=0.0,
                                repetition_penalty=1.0, logprobs=None, ignore_eos=True)
        self.assertTrue(chunks)

    def test_older_vllm_and_sglang_benchmarks(self):
        for body in ({'temperature': 0.0, 'best_of': 1, 'max_tokens': 5, 'logprobs': None},
                     {'temperature': 0.0, 'best_of': 1, 'max_tokens': 5, 'ignore_eos': True}):
            _, chunks = self.stream(**body)
            for chunk in chunks:  # they read the first choice of every chunk
                self.assertIsInstance(chunk['choices'][0]['text'], str)

    def test_guidellm(self):
        extras = {'temperature': 0}  # of its command line
        _, chunks = self.stream(max_tokens=9, stop=None, ignore_eos=True, stream_options={
            'include_usage': True, 'continuous_usage_stats': True}, **extras)
        usages = [chunk['usage'] for chunk in chunks]
        counts = [usage['completion_tokens'] for usage in usages]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], 9)
        self.assertEqual({usage['prompt_tokens'] for usage in usages},
                         {usages[0]['prompt_tokens']})
        for usage in usages:
            self.assertEqual(usage['total_tokens'],
                             usage['prompt_tokens'] + usage['completion_tokens'])
        text = ''.join(chunk['choices'][0]['text'] for chunk in chunks if chunk['choices'])
        whole = json.loads(self.complete(max_tokens=9, stop=None, ignore_eos=True, **extras)[1])
        self.assertEqual(whole['usage'], usages[-1])
        self.assertEqual(whole['choices'][0]['text'], text)

    def test_genai_perf_and_inference_perf(self):
        for body in ({'prompt': [PROMPT], 'max_tokens': 6, 'min_tokens': 6, 'ignore_eos': True},
                     {'max_tokens': 6, 'min_tokens': 6, 'n': 1, 'stream': False},
                     {'max_tokens': 6, 'ignore_eos': True, 'stream': False, 'user': 'perf'}):
            _, text = self.complete(**body)
            self.assertEqual(json.loads(text)['usage']['completion_tokens'], 6)

    def test_openai_package_sends_what_was_given(self):
        # It leaves its defaults out of a body; gateways fill them in.
        _, text = self.complete(
            best_of=None, echo=None, frequency_penalty=None, logit_bias={}, logprobs=None,
            max_tokens=4, n=None, presence_penalty=None, seed=None, stop=[], stream=None,
            stream_options=None, suffix=None, temperature=None, top_p=None, user='someone',
            store=False, metadata={}, service_tier='auto', response_format={'type': 'text'},
            tools=[], tool_choice='none')
        self.assertLessEqual(json.loads(text)['usage']['completion_tokens'], 4)

    def test_what_is_not_served_is_refused_by_name(self):
        for field, value in (('max_completion_tokens', 5), ('use_beam_search', True),
                             ('response_format', {'type': 'json_object'}),
                             ('guided_json', {'type': 'object'}), ('suffix', 'the end'),
                             ('tools', [{'type': 'function', 'function': {'name': 'f'}}]),
                             ('messages', [{'role': 'user', 'content': 'hi'}])):
            with self.subTest(field):
                self.assert_refused(field, 'not supported', **{field: value})
        for field in ('max_new_tokens', 'do_sample', 'temprature', 'Max_Tokens', 'streaming'):
            with self.subTest(field):
                self.assert_refused(field, 'not recognised', **{field: 5})
        self.assert_refused('best_of', best_of=4, n=2)

    def test_lm_evals_tokenizer_over_http(self):
        status, _, text = call(self.server, 'GET', '/tokenizer_info')
        self.assertEqual(status, 200, text)
        self.assertEqual(json.loads(text)['eos_token'], '<|endoftext|>')

        def post(path, body):
            status, _, text = call(self.server, 'POST', path, body)
            self.assertEqual(status, 200, text)
            return json.loads(text)
        for words in (PROMPT, 'test', 'naïve 🙂', '<|endoftext|>'):
            tokens = post('/tokenize', {'prompt': words, 'add_special_tokens': False})['tokens']
            self.assertTrue(all(isinstance(token, int) for token in tokens))
            self.assertEqual(post('/detokenize', {'tokens': tokens})['prompt'], words)
        self.assertEqual(tokens, [0])  # eos_token_id, as it finds it

    def test_what_is_asked_before_the_first_request(self):
        for path in ('/health', '/ping', '/version', '/v1/models', '/v1/models/', '/metrics'):
            with self.subTest(path):
                self.assertEqual(call(self.server, 'GET', path)[0], 200)


if __name__ == '__main__':
    unittest.main()
