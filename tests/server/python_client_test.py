#!/usr/bin/env python3
"""Runs the Python client of README.md as it stands there, against a server on the shipped model:
python_client_test.py BUILD/bin/strata README.md

The client may write the stubs itself; for one that imports them they are made from proto/ with
protoc and gRPC's plugin, and stand on PYTHONPATH."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from strata_process import TIMEOUT, Served, without_strata_variables

BINARY, README = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1)).resolve()
DEFAULT_ADDRESS = '127.0.0.1:50051'


def client_in_readme():
    blocks = re.findall(r'^```python\n(.*?)^```$', README.read_text(), re.DOTALL | re.MULTILINE)
    return next(block for block in blocks if 'Generate' in block)


def make_stubs(directory):
    subprocess.run(
        ['protoc', '--proto_path=proto', '--python_out=' + directory, '--grpc_out=' + directory,
         '--plugin=protoc-gen-grpc=' + shutil.which('grpc_python_plugin'),
         'strata/v1/inference.proto'], cwd=README.parent, check=True)


class PythonClient(unittest.TestCase):

    def test_prints_a_story(self):
        client = client_in_readme()
        self.assertLessEqual(len(client.splitlines()), 15)
        self.assertIn(DEFAULT_ADDRESS, client)
        with tempfile.TemporaryDirectory() as stubs, Served(BINARY) as server:
            make_stubs(stubs)
            environment = without_strata_variables()
            environment['PYTHONPATH'] = stubs
            environment['no_proxy'] = '127.0.0.1'
            result = subprocess.run(
                [sys.executable, '-c', client.replace(DEFAULT_ADDRESS, server.address)],
                cwd=README.parent, env=environment, timeout=TIMEOUT, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertGreater(len(result.stdout.split()), 10, result.stdout)


if __name__ == '__main__':
    unittest.main()
