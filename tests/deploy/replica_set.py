"""Replicas of `strata serve` behind Debian's HAProxy under deploy/haproxy.cfg, each on a host of a
network of their own, for the tests of this folder."""

import collections
import csv
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import namespaces

CONFIG = pathlib.Path(__file__).resolve().parents[2] / 'deploy' / 'haproxy.cfg'
TIMEOUT = 120  # seconds; a machine under load is slow, not broken
REPLICAS = ['replica-1', 'replica-2', 'replica-3']


def missing():
    """Why nothing of this can run here; None where it can."""
    for program, package in (('haproxy', 'haproxy'), ('curl', 'curl')):
        if shutil.which(program) is None:
            return f"Debian's package {package} is not installed"
    return namespaces.missing()


def random_routing():
    """deploy/haproxy.cfg with sessions sent anywhere, to compare with."""
    text = CONFIG.read_text()
    lines = [line for line in text.splitlines() if not line.strip().startswith('hash-')]
    text = '\n'.join(lines).replace('balance hdr(x-strata-session)', 'balance random') + '\n'
    assert text.count('balance random') == 1, 'haproxy.cfg has changed: adapt random_routing'
    return text


class ReplicaSet:
    """`with ReplicaSet(strata, loadtest, '--threads', '1') as replicas: replicas.load(...)`"""

    def __init__(self, binary, loadtest, *flags, config=None):
        self._binary, self._loadtest, self._flags = binary, loadtest, flags
        self._config = config or CONFIG.read_text()
        self._network = namespaces.Network([*REPLICAS, 'balancer', 'client'])
        self._processes = {}
        self.log = []  # HAProxy's line of each stream that has ended

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        try:
            self._network.__enter__()
            for name in REPLICAS:
                self.start(name)
            for name in REPLICAS:
                self.wait_ready(name)
            self._start_balancer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self._network.__exit__()
        if hasattr(self, '_log_socket'):
            self._log_socket.close()
            self._reader.join()
        self._folder.cleanup()

    # Replicas

    def start(self, name):
        address = self._network.address[name]
        with open(self.folder / f'{name}.log', 'a', encoding='utf-8') as log:
            self._processes[name] = self._network.start(
                name, [self._binary, 'serve', *self._flags, '--grpc-address', f'{address}:50051',
                       '--http-address', f'{address}:8000'], stderr=log)

    def send(self, name, signal_number):
        self._processes[name].send_signal(signal_number)

    def wait(self, name):
        return self._processes[name].wait(TIMEOUT)

    def wait_ready(self, name):
        self._wait_for(lambda: self._get(name, '/readyz') == 'ready\n', f'{name} is not ready')

    def restart(self, name):
        """As deploy/README.md says, so that nobody notices."""
        self.admin(f'set server by_session/{name} state drain')
        time.sleep(0.3)  # streams on their way to the replica arrive
        self.send(name, signal.SIGTERM)
        code = self.wait(name)
        self.start(name)
        self.wait_ready(name)
        self.admin(f'set server by_session/{name} state ready')
        return code

    def counters(self):
        """{series: sum over the replicas} of their metrics."""
        total = collections.Counter()
        for name in REPLICAS:
            for line in self._get(name, '/metrics').splitlines():
                if not line.startswith('#'):
                    series, value = line.rsplit(' ', 1)
                    total[series] += float(value)
        return total

    def _get(self, name, path):
        return self._network.run(
            name, ['curl', '-s', f'http://{self._network.address[name]}:8000{path}']).stdout

    # HAProxy

    def _start_balancer(self):
        config = self.folder / 'haproxy.cfg'
        config.write_text(self._config, encoding='utf-8')
        self._log_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._log_socket.bind(str(self.folder / 'log.sock'))
        self._log_socket.settimeout(0.2)
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        address = self._network.address
        variables = [f'STRATA_REPLICA_{i}={address[name]}' for i, name in enumerate(REPLICAS, 1)]
        variables += [f'STRATA_LB_ADDRESS={self.address}', f'STRATA_LB_ADMIN={self.folder}/admin',
                      f'STRATA_LB_LOG={self.folder}/log.sock']
        with open(self.folder / 'balancer.log', 'w', encoding='utf-8') as log:
            self._processes['balancer'] = balancer = self._network.start(
                'balancer', ['env', *variables, 'haproxy', '-db', '-f', str(config)], stderr=log)

        def listens():
            assert balancer.poll() is None, (self.folder / 'balancer.log').read_text()
            return (self.folder / 'admin').exists()

        self._wait_for(listens, 'HAProxy does not start')
        for name in REPLICAS:
            self.wait_up(name)

    @property
    def address(self):
        return f"{self._network.address['balancer']}:50050"

    def admin(self, command):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(self.folder / 'admin'))
            connection.sendall(command.encode() + b'\n')
            answer = b''
            while piece := connection.recv(65536):
                answer += piece
        return answer.decode()

    def statistics(self, name):
        """What HAProxy counts of a replica: {backend: {field: text}}."""
        header, *rows = self.admin('show stat').strip().splitlines()
        rows = [dict(zip(header.lstrip('# ').split(','), row.split(','))) for row in rows]
        return {row['pxname']: row for row in rows if row['svname'] == name}

    def state(self, name):
        """What HAProxy takes a replica to be, such as UP or DOWN."""
        return self.statistics(name)['by_session']['status']

    def streams(self, name):
        return sum(int(row['scur']) for row in self.statistics(name).values())

    def wait_up(self, name):
        # HAProxy counts a replica as up before its first check, too.
        self._wait_for(lambda: self.state(name) == 'UP' and
                       self.statistics(name)['by_session']['check_status'] == 'L7OK',
                       f'{name} is not up')

    def _read_log(self):
        while self._log_socket.fileno() >= 0:
            try:
                line = self._log_socket.recv(65536).decode()
            except TimeoutError:
                continue
            except OSError:  # it was closed
                return
            if '{' in line:
                self.log.append({**json.loads(line[line.index('{'):]), 'at': time.monotonic()})

    # Load

    def start_load(self, *flags):
        """strata-loadtest in the background; finish_load gives its result."""
        return self._network.start(
            'client', [self._loadtest, '--server', self.address, '--quiet', '--json',
                       str(self.folder / 'load.json'), '--csv', str(self.folder / 'load.csv'),
                       *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish_load(self, process):
        _, errors = process.communicate(timeout=10 * TIMEOUT)
        path = self.folder / 'load.json'
        assert path.exists(), errors
        result = json.loads(path.read_text())
        path.unlink()
        return result

    def load_rows(self):
        """Of the last load: a request each."""
        with open(self.folder / 'load.csv', newline='', encoding='utf-8') as file:
            return list(csv.DictReader(file))

    def load(self, *flags):
        return self.finish_load(self.start_load(*flags))

    @staticmethod
    def _wait_for(condition, what):
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)
