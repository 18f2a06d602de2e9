"""Runs the strata program for the tests of this folder."""

import os
import re
import signal
import subprocess
import threading

TIMEOUT = 120  # seconds; a machine under load is slow, not broken


class Served:
    """`strata serve` on free ports of its own:

        with Served(binary) as server: use(server.address, server.http_address)
    """

    def __init__(self, binary, *flags):
        if '--http-address' not in flags:
            flags = ('--http-address', '127.0.0.1:0', *flags)
        self._command = [binary, 'serve', '--grpc-address', '127.0.0.1:0', *flags]
        self.address = None
        self.http_address = None
        self.log = []

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True,
                                         env=without_strata_variables())
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(listening,))
        self._reader.start()
        if not listening.wait(TIMEOUT) or self.address is None:
            self._process.kill()
            raise AssertionError('the server did not start: ' + ''.join(self.log))
        return self

    def _read_log(self, listening):
        for line in self._process.stderr:
            self.log.append(line)
            found = re.search(r'http at (\S+)', line)
            if found:
                self.http_address = found.group(1)
            found = re.search(r'listening on (\S+)', line)
            if found:
                self.address = found.group(1)
                listening.set()
        listening.set()  # it has ended

    @property
    def pid(self):
        return self._process.pid

    def send(self, signal_number):
        self._process.send_signal(signal_number)

    def wait(self):
        code = self._process.wait(TIMEOUT)
        self._reader.join()
        self._process.stderr.close()
        return code

    def __exit__(self, *_):
        if self._process.poll() is None:
            self.send(signal.SIGTERM)
        self.wait()


def run(binary, *arguments, **options):
    """One command, with its output as text."""
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
    return subprocess.run([binary, *arguments], text=True, timeout=TIMEOUT, check=False, **options)


def without_strata_variables():
    return {name: value for name, value in os.environ.items() if not name.startswith('STRATA_')}
