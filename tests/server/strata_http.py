"""One exchange with a server over HTTP, and what it says of itself, for the tests of this folder."""

import contextlib
import http.client
import json
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
