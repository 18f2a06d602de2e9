#!/usr/bin/env python3
"""What clients of other servers ask for: http_clients_test.py BUILD/bin/strata MODEL, the shipped one."""

import contextlib
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

from strata_http import call, connect
from strata_process import Served, run, without_strata_variables

BINARY, MODEL = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
PROMPT = 'Once upon a time'


class Asked(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = Served(BINARY, '--model', str(MODEL)).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def test_version(self):
        told = run(BINARY, '--version').stdout.split()[1]
        self.assertEqual(json.loads(call(self.server, 'GET', '/version')[2]), {'version': told})

    def test_tokenizer(self):
        """As lm-eval's tokenizer of a remote server asks."""
        info = json.loads(call(self.server, 'GET', '/tokenizer_info')[2])
        self.assertEqual((info['eos_token'], info['bos_token'], info['tokenizer_class']),
                         ('<|endoftext|>', '<|endoftext|>', 'GPT2Tokenizer'))
        self.assertEqual(info['added_tokens_decoder'], {'0': '<|endoftext|>'})
        printed = run(BINARY, 'generate', '--server', self.server.address, '--prompt', PROMPT,
                      '--max-tokens', '1', '--json', env=without_strata_variables()).stdout
        answer = json.loads(call(self.server, 'POST', '/tokenize',
                                 {'prompt': PROMPT, 'add_special_tokens': False,
                                  'return_token_strs': True})[2])
        self.assertEqual(answer['tokens'], json.loads(printed)['prompt_token_ids'])
        self.assertEqual(answer['count'], len(answer['tokens']))
        self.assertEqual(''.join(answer['token_strs']).replace('\u0120', ' '), PROMPT)
        text = json.loads(call(self.server, 'POST', '/detokenize', {'tokens': answer['tokens']})[2])
        self.assertEqual(text, {'prompt': PROMPT})

    def test_every_answer_has_the_requests_id(self):
        body = {'prompt': PROMPT, 'max_tokens': 2}
        for method, path, sent, expected in (
                ('POST', '/v1/completions', body, 200),
                ('POST', '/v1/completions', {**body, 'stream': True}, 200),
                ('POST', '/v1/completions', {**body, 'top_p': 'x'}, 400),
                ('POST', '/v1/completions', b' ' * (4 << 20), 413),
                ('GET', '/v1/completions', None, 405), ('GET', '/none', None, 404),
                ('GET', '/metrics', None, 200), ('GET', '/v1/models', None, 200)):
            status, headers, text = call(self.server, method, path, sent, {'X-Request-Id': 'me/1'})
            self.assertEqual((status, headers.get_all('x-request-id')), (expected, ['me/1']), text)
            _, headers, _ = call(self.server, method, path, sent)
            self.assertRegex(headers['x-request-id'], '^req-[0-9a-f]{16}$')

    def test_two_requests_of_one_id_both_run(self):
        with contextlib.closing(connect(self.server)) as first:
            first.request('POST', '/v1/completions',
                          json.dumps({'prompt': PROMPT, 'max_tokens': 400, 'stream': True,
                                      'ignore_eos': True}), {'X-Request-Id': 'twin'})
            running = first.getresponse()
            self.assertTrue(running.read(1))
            status, headers, text = call(self.server, 'POST', '/v1/completions',
                                         {'prompt': PROMPT, 'max_tokens': 2},
                                         {'X-Request-Id': 'twin'})
            self.assertEqual((status, headers['x-request-id']), (200, 'twin'), text)
            self.assertEqual((running.status, running.headers['x-request-id']), (200, 'twin'))
            self.assertTrue(running.read().endswith(b'data: [DONE]\n\n'))

    def test_one_of_several_prompts_that_is_too_long(self):
        status, _, text = call(self.server, 'POST', '/v1/completions',
                               {'prompt': [[1], [1] * 512], 'max_tokens': 1})
        error = json.loads(text)['error']
        self.assertEqual((status, error['code'], error['param']),
                         (400, 'context_length_exceeded', 'prompt[1]'), text)


class Names(unittest.TestCase):

    def model_of(self, server, asked):
        """The model's name in the answer to a completion."""
        status, _, text = call(server, 'POST', '/v1/completions',
                               {'prompt': PROMPT, 'max_tokens': 1, 'model': asked})
        self.assertEqual(status, 200, text)
        return json.loads(text)['model']

    def test_served_names_and_origins(self):
        with Served(BINARY, '--served-model-name', 'first,org/second',
                    '--cors-origins', 'https://a.example') as server:
            ids = [model['id'] for model in json.loads(call(server, 'GET', '/v1/models')[2])['data']]
            self.assertEqual(ids, ['first', 'org/second'])
            self.assertEqual(call(server, 'GET', '/v1/models/org/second')[0], 200)
            self.assertEqual(self.model_of(server, 'org/second'), 'first')
            status, _, text = call(server, 'POST', '/v1/completions',
                                   {'prompt': PROMPT, 'model': 'svformer'})
            self.assertEqual(status, 404, text)
            self.assertIn('model first: ', ''.join(server.log))

            page = {'Origin': 'https://a.example'}
            status, headers, _ = call(server, 'OPTIONS', '/v1/completions', None,
                                      {**page, 'Access-Control-Request-Method': 'POST',
                                       'Access-Control-Request-Headers': 'authorization'})
            self.assertEqual((status, headers['Access-Control-Allow-Headers']),
                             (204, 'authorization'))
            for stream in (False, True):
                _, headers, _ = call(server, 'POST', '/v1/completions',
                                     {'prompt': PROMPT, 'max_tokens': 1, 'stream': stream}, page)
                self.assertEqual(headers['Access-Control-Allow-Origin'], 'https://a.example')

    def test_a_snapshot_is_called_as_its_repository(self):
        with tempfile.TemporaryDirectory() as cache:
            snapshot = pathlib.Path(cache, 'models--org--tiny', 'snapshots', '0123abc')
            shutil.copytree(MODEL, snapshot)
            with Served(BINARY, '--model', str(snapshot)) as server:
                self.assertEqual(self.model_of(server, 'org/tiny'), 'org/tiny')
                self.assertEqual(call(server, 'GET', '/v1/models/org%2Ftiny')[0], 200)


if __name__ == '__main__':
    unittest.main()
