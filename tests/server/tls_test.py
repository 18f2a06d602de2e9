#!/usr/bin/env python3
"""TLS, mutual TLS and their files, on both fronts: tls_test.py BUILD/bin/strata BUILD/bin/strata-loadtest."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import ssl
import sys
import tempfile
import unittest

import grpc

from certificates import Authority, replace
from strata_grpc import pb, stub
from strata_http import wait_for
from strata_process import TIMEOUT, Served, run, without_strata_variables

BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)
PROMPT = 'Once upon a time'


def strata(*arguments, binary=BINARY, **options):
    return run(binary, *map(str, arguments), env=without_strata_variables(), **options)


def split(address):
    host, port = address.rsplit(':', 1)
    return host, int(port)


def peer_name(address, ca, alpn):
    """Whom a new connection meets: the common name of the server's certificate."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols([alpn])
    with socket.create_connection(split(address), TIMEOUT) as plain, \
         context.wrap_socket(plain, server_hostname='localhost') as session:
        return dict(pair[0] for pair in session.getpeercert()['subject'])['commonName']


class Tls(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        cls.ca = Authority(cls.path)
        cls.server = cls.ca.issue('server')
        cls.client = cls.ca.issue('client')
        cls.stranger = Authority(cls.path, 'stranger').issue('unknown')

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def served(self, *flags, pair=None):
        cert, key = pair or self.server
        return Served(BINARY, '--tls-cert', str(cert), '--tls-key', str(key), *map(str, flags))

    def ask_grpc(self, server, ca=None, pair=None):
        """The text of a short answer; raises RpcError."""
        ca = (ca or self.ca.certificate).read_bytes()
        cert, key = [file.read_bytes() for file in pair] if pair else (None, None)
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        with grpc.secure_channel(server.address, credentials) as channel:
            events = stub(channel).Generate(
                pb.GenerateRequest(text=PROMPT, max_tokens=4, temperature=0), timeout=20)
            return ''.join(event.delta.text for event in events)

    def ask_http(self, server, ca=None, pair=None):
        context = ssl.create_default_context(cafile=ca or self.ca.certificate)
        if pair:
            context.load_cert_chain(*pair)
        host, port = split(server.http_address)
        with contextlib.closing(http.client.HTTPSConnection(host, port, timeout=TIMEOUT,
                                                            context=context)) as connection:
            texts = []
            for stream in (False, True, False):  # on one connection
                connection.request('POST', '/v1/completions', json.dumps(
                    {'prompt': PROMPT, 'max_tokens': 4, 'temperature': 0, 'stream': stream}),
                    {'Content-Type': 'application/json'})
                response = connection.getresponse()
                body = response.read().decode()
                self.assertEqual(response.status, 200, body)
                if stream:
                    pieces = [json.loads(line[6:]) for line in body.splitlines()
                              if line.startswith('data: {')]
                else:
                    pieces = [json.loads(body)]
                texts.append(''.join(piece['choices'][0]['text'] for piece in pieces))
            self.assertEqual(len(set(texts)), 1, texts)
            return texts[0]

    def test_both_fronts_and_all_clients(self):
        with self.served() as server:
            self.assertEqual(self.ask_grpc(server), self.ask_http(server))
            with self.assertRaises(grpc.RpcError):  # a server that the client does not trust
                self.ask_grpc(server, ca=self.stranger[0])
            with self.assertRaises(ssl.SSLError):
                self.ask_http(server, ca=self.stranger[0])
            access = ('--tls-ca', self.ca.certificate, '--server', server.address)
            self.assertEqual(strata('health', *access).stdout, 'SERVING\n')
            self.assertEqual(strata('health', '--server', server.address).returncode, 1)
            result = strata('generate', *access, '--prompt', PROMPT, '--max-tokens', '4')
            self.assertEqual(result.returncode, 0, result.stderr)
            wrong_name = strata('health', *access, '--tls-server-name', 'elsewhere')
            self.assertEqual(wrong_name.returncode, 1)
            self.assertIn('no TLS is agreed', wrong_name.stderr)
            right_name = strata('health', *access, '--tls-server-name', 'localhost')
            self.assertEqual(right_name.returncode, 0, right_name.stderr)
            load = strata(*access, '--metrics', server.http_address, '--users', '2', '--requests',
                          '4', '--output-tokens', '4', '--quiet', binary=LOADTEST)
            self.assertEqual(load.returncode, 0, load.stderr)
            # Bytes without TLS are no request, and do no harm.
            for address in (server.address, server.http_address):
                with socket.create_connection(split(address), TIMEOUT) as plain:
                    plain.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
                    self.assertNotIn(b'200', plain.recv(100))
            self.ask_http(server)

    def test_clients_need_a_certificate(self):
        with self.served('--tls-client-ca', self.ca.certificate) as server:
            self.assertEqual(self.ask_grpc(server, pair=self.client),
                             self.ask_http(server, pair=self.client))
            for pair in (None, self.stranger):
                with self.assertRaises(grpc.RpcError):
                    self.ask_grpc(server, pair=pair)
                with self.assertRaises((ssl.SSLError, ConnectionError)):
                    self.ask_http(server, pair=pair)
            access = ('--tls-ca', self.ca.certificate, '--server', server.address)
            own = ('--tls-cert', self.client[0], '--tls-key', self.client[1])
            self.assertEqual(strata('health', *access).returncode, 1)
            self.assertEqual(strata('health', *access, *own).stdout, 'SERVING\n')
            load = strata(*access, *own, '--metrics', server.http_address, '--users', '2',
                          '--requests', '4', '--output-tokens', '4', '--quiet', binary=LOADTEST)
            self.assertEqual(load.returncode, 0, load.stderr)

    def test_files_are_read_again(self):
        def names():
            return {peer_name(server.address, self.ca.certificate, 'h2'),
                    peer_name(server.http_address, self.ca.certificate, 'http/1.1')}
        pair = self.ca.issue('first')
        second, third = self.ca.issue('second'), self.ca.issue('third')
        expired = self.ca.issue('expired', days=-1)
        with self.served(pair=pair) as server:
            self.assertEqual(names(), {'first'})
            replace(pair, second)
            wait_for(lambda: names() == {'second'}, names)
            replace(pair, (expired[0], second[1]))
            wait_for(lambda: any('expired' in line or 'does not belong' in line
                                 for line in server.log), lambda: server.log)
            self.assertEqual(names(), {'second'})
            os.unlink(pair[1])
            wait_for(lambda: any('cannot read' in line for line in server.log))
            self.assertEqual(names(), {'second'})
            self.ask_http(server)
            replace(pair, third)
            wait_for(lambda: names() == {'third'}, names)
            self.ask_grpc(server)

    def test_files_that_cannot_be_used(self):
        cert, key = self.server
        text = self.path / 'text'
        text.write_text('no PEM')
        expired = self.ca.issue('old', days=-1)
        encrypted = self.path / 'encrypted.key'
        run('openssl', 'ec', '-in', str(key), '-out', str(encrypted), '-aes128', '-passout',
            'pass:x')
        for flags, words in (
                ((cert, self.path / 'none'), ('tls-key', 'none', 'No such file')),
                ((self.path / 'none', key), ('tls-cert', 'none', 'No such file')),
                ((text, key), ('tls-cert', 'text', 'no certificate')),
                ((self.path, key), ('tls-cert', 'Is a directory')),
                ((cert, text), ('tls-key', 'text', 'no private key')),
                ((cert, encrypted), ('tls-key', 'passphrase')),
                ((cert, self.client[1]), ('tls-key', 'client.key', 'does not belong')),
                (expired, ('tls-cert', 'old.crt', 'expired on')),
                ((cert, key, '--tls-client-ca', text), ('tls-client-ca', 'no certificate'))):
            cert_file, key_file, *more = flags
            result = strata('serve', '--tls-cert', cert_file, '--tls-key', key_file, *more)
            self.assertEqual(result.returncode, 1, result)
            self.assertEqual(result.stderr.count('\n'), 1, result.stderr)
            for word in words:
                self.assertIn(word, result.stderr)
        for flags in (('--tls-cert', cert), ('--tls-client-ca', cert)):
            self.assertEqual(strata('serve', *flags).returncode, 2)
        for flags, word in ((('--tls-cert', cert, '--tls-key', key), 'needs tls-ca'),
                            (('--tls-ca', self.path / 'none'), 'No such file')):
            result = strata('health', *flags)
            self.assertEqual((result.returncode, result.stderr.count('\n')), (1, 1))
            self.assertIn(word, result.stderr)


if __name__ == '__main__':
    unittest.main()
