"""What hostile_test.py sets on a server, in a process of its own, until it is told to end."""

import contextlib
import gzip
import random
import resource
import socket
import struct
import sys
import threading
import time

import grpc

from strata_grpc import pb, stub

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + b'\0\0\0\4\0\0\0\0\0'  # and empty SETTINGS
HEAD = b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
BOMB_BYTES = 64 << 20


class Attack:
    """Both addresses of the server, and when to end."""

    def __init__(self, grpc_address, http_address, connections):
        self.addresses = [grpc_address, http_address]
        self.grpc_address, self.http_address = grpc_address, http_address
        self.connections = connections  # of a flood
        self.stop = threading.Event()

    def dial(self, address):
        host, port = address.rsplit(':', 1)
        client = socket.socket()
        client.settimeout(5)
        try:
            client.connect((host, int(port)))
        except OSError:
            client.close()
            raise
        return client

    @contextlib.contextmanager
    def client(self, address):
        """A connection that ends in either way; what the server does to it is its right."""
        try:
            client = self.dial(address)
        except OSError:
            yield None  # the server refused it
            return
        with contextlib.closing(client):
            yield client
            if random.random() < 0.5:  # without a farewell
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

    def send(self, address, *parts, pause=0.0):
        with contextlib.suppress(OSError), self.client(address) as client:
            if client is None:
                return
            for part in parts:
                client.sendall(part)
                if pause and self.stop.wait(pause):
                    return
            client.settimeout(0.2)
            client.recv(1 << 16)

    def garbage(self):
        noise = random.randbytes(random.randrange(1, 20000))
        start = random.choice([b'', PREFACE, HEAD, b'\x16\x03\x01\x02\x00', b'GET / HTTP/1.1\r\n',
                               HEAD + b'Content-Length: 20000\r\n\r\n'])
        self.send(random.choice(self.addresses), start + noise)

    def half_open(self):
        starts = [b'', b'PRI * HT', PREFACE, b'POST /v1', HEAD, b'\x16\x03\x01\x02\x00\x01\x00',
                  PREFACE + b'\0\0\xff\1\4\0\0\0\1\x82', HEAD + b'Content-Length: 900\r\n\r\n{"pro']
        with contextlib.ExitStack() as stack:
            for start in starts * 4:
                for address in self.addresses:
                    with contextlib.suppress(OSError):
                        client = stack.enter_context(contextlib.closing(self.dial(address)))
                        client.sendall(start)
            self.stop.wait(3)

    def flood(self):
        clients = []
        for number in range(self.connections):
            if self.stop.is_set():
                break
            try:
                clients.append(self.dial(self.addresses[number % 10 == 0]))
            except OSError:
                break
        self.stop.wait(1)
        for client in clients:
            client.close()
        self.stop.wait(1)

    def slow_loris(self):
        for text, address in ((HEAD * 50, self.http_address), (PREFACE, self.grpc_address)):
            self.send(address, *(bytes([byte]) for byte in text[:40]), pause=0.25)

    def oversize(self):
        big = 4 << 20
        http = self.http_address
        self.send(http, HEAD + b'Content-Length: %d\r\n\r\n' % (50 * big), b'x' * big)
        self.send(http, HEAD + b'Content-Length: 99999999999999999999\r\n\r\n', b'x' * 1000)
        self.send(http, HEAD + b'Transfer-Encoding: chunked\r\n\r\nffffffff\r\n', b'x' * big)
        self.send(http, HEAD + b'X: ' + b'y' * big)
        self.send(http, HEAD + b'X: y\r\n' * 100000)
        self.send(http, b'GET /' + b'y' * big)
        self.send(http, b'GET /metrics HTTP/1.1\r\nRange: bytes=-' + b',-' * 4000 + b'\r\n\r\n')
        with grpc.insecure_channel(self.grpc_address) as channel:
            with contextlib.suppress(grpc.RpcError):
                list(stub(channel).Generate(pb.GenerateRequest(text='x' * 5 * big), timeout=5))
            with contextlib.suppress(grpc.RpcError):
                list(stub(channel).Generate(pb.GenerateRequest(text='x'), timeout=5,
                                            metadata=[('x-big', 'y' * big)]))

    def bombs(self):
        packed = gzip.compress(b'{"prompt": "' + b' ' * BOMB_BYTES)
        for encoding in (b'gzip', b'deflate', b'br'):
            self.send(self.http_address, HEAD + b'Content-Encoding: ' + encoding +
                      b'\r\nContent-Length: %d\r\n\r\n' % len(packed), packed)
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with grpc.insecure_channel(self.grpc_address, compression=compression) as channel, \
                 contextlib.suppress(grpc.RpcError):
                list(stub(channel).Generate(pb.GenerateRequest(text=' ' * BOMB_BYTES), timeout=5))
        self.stop.wait(1)

    def abandoned(self):
        request = pb.GenerateRequest(text='Once upon a time', max_tokens=200, ignore_eos=True)
        with grpc.insecure_channel(self.grpc_address) as channel:
            calls = [stub(channel).Generate(request) for _ in range(8)]
            with contextlib.suppress(grpc.RpcError):
                next(calls[0])
            for call in calls[::2]:
                call.cancel()
        body = b'{"prompt": "Once", "max_tokens": 200, "ignore_eos": true, "stream": true}'
        with self.client(self.http_address) as client:
            if client is not None:
                with contextlib.suppress(OSError):
                    client.sendall(HEAD + b'Content-Length: %d\r\n\r\n' % len(body) + body)
                    client.recv(100)
        self.stop.wait(0.2)

    def repeat(self, once, done):
        while not self.stop.is_set():
            once()
            done[once.__name__] += 1


def main():
    """GRPC_ADDRESS HTTP_ADDRESS CONNECTIONS KINDS: until standard input ends; prints what was done.
    KINDS are names of attacks with commas between, all where it is empty."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = Attack(sys.argv[1], sys.argv[2], min(int(sys.argv[3]), hard - 1000))
    kinds = [attack.garbage, attack.half_open, attack.flood, attack.oversize, attack.bombs,
             attack.abandoned] + [attack.slow_loris] * 20
    if sys.argv[4]:
        kinds = [kind for kind in kinds if kind.__name__ in sys.argv[4].split(',')]
    done = {kind.__name__: 0 for kind in kinds}
    threads = [threading.Thread(target=attack.repeat, args=(kind, done)) for kind in kinds]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    attack.stop.set()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    print(done)


if __name__ == '__main__':
    main()
