"""One exchange with a server over HTTP, and what it says of itself, for the tests of this folder."""

import contextlib
import http.client
import json
import socket
import time

from strata_process import TIMEOUT


def connect(server):
    host, port = server.http_address.rsplit(':', 1)
    return http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)


def call(server, method, path, body=None, headers=None):
    """Status, headers and text of one exchange; `body` is made JSON unless it is bytes."""
    with contextlib.closing(connect(server)) as connection:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body)
        connection.request(method, path, body, {'Content-Type': 'application/json',
                                                **(headers or {})})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def dial(address, receive_buffer=None):
    host, port = address.rsplit(':', 1)
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # The server's kernel sizes its own buffer by the client's segment size.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.settimeout(TIMEOUT)
    client.connect((host, int(port)))
    return client


def post(client, body):
    """A completion over a socket; nothing of the answer is read."""
    body = json.dumps(body)
    client.sendall(f'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
                   f'Content-Length: {len(body)}\r\n\r\n{body}'.encode())


def stand_still(server, n=16):
    """A socket with a stream of n * 270 KB coming, of which 100 KB fit into the kernel's buffers."""
    client = dial(server.http_address, receive_buffer=4096)
    post(client, {'prompt': 'the ' * 380, 'echo': True, 'logprobs': 20, 'stream': True,
                  'max_tokens': 100, 'ignore_eos': True, 'n': n})
    return client


def metrics(server):
    """{series with its labels: value} of a scrape."""
    status, _, text = call(server, 'GET', '/metrics')
    assert status == 200, text
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    return {name: float(value) for name, value in (line.rsplit(' ', 1) for line in lines)}


def total(seen, family):
    """Of a scrape: the sum over a family's labels."""
    return sum(value for name, value in seen.items() if name.split('{')[0] == family)


def wait_for(condition, what='it did not come to pass', limit=TIMEOUT):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.01)
