"""Hosts of a small network of their own, each a network namespace on one bridge, for the tests of
this folder."""

import os
import shutil
import subprocess

SWITCH = 'switch'


def _ip(*arguments, check=True):
    return subprocess.run(['ip', *arguments], check=check, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)


def missing():
    """Why no network can be made here; None where it can."""
    if shutil.which('ip') is None:
        return "Debian's package iproute2 is not installed"
    name = f'strata-{os.getpid()}-probe'
    made = _ip('netns', 'add', name, check=False)
    if made.returncode != 0:
        return f'no network namespaces here: {made.stderr.strip()}'
    pair = _ip('-n', name, 'link', 'add', 'name', 'probe0', 'type', 'veth', 'peer', 'name',
               'probe1', check=False)
    _ip('netns', 'del', name, check=False)
    return f'no virtual network devices here: {pair.stderr.strip()}' if pair.returncode else None


class Network:
    """`with Network(['a', 'b']) as network: network.start('a', [program, ...])`

    Each host has an address, network.address['a'], which the others reach; this machine does not.
    """

    def __init__(self, hosts):
        self.address = {host: f'10.231.0.{number}' for number, host in enumerate(hosts, 1)}

    def __enter__(self):
        self._add_namespace(SWITCH)
        _ip('-n', self._name(SWITCH), 'link', 'add', 'name', 'bridge', 'type', 'bridge')
        _ip('-n', self._name(SWITCH), 'link', 'set', 'bridge', 'up')
        for number, (host, address) in enumerate(self.address.items()):
            self._add_namespace(host)
            port = f'port{number}'
            _ip('-n', self._name(host), 'link', 'add', 'name', 'eth0', 'type', 'veth', 'peer',
                'name', port, 'netns', self._name(SWITCH))
            _ip('-n', self._name(SWITCH), 'link', 'set', port, 'master', 'bridge', 'up')
            _ip('-n', self._name(host), 'address', 'add', f'{address}/24', 'dev', 'eth0')
            _ip('-n', self._name(host), 'link', 'set', 'eth0', 'up')
        return self

    def __exit__(self, *_):
        for host in [SWITCH, *self.address]:
            _ip('netns', 'del', self._name(host), check=False)

    def start(self, host, command, **options):
        """A process on a host; `ip` makes way for it, so that its pid and signals are its own."""
        return subprocess.Popen(['ip', 'netns', 'exec', self._name(host), *command], text=True,
                                **options)

    def run(self, host, command, timeout=120):
        return subprocess.run(['ip', 'netns', 'exec', self._name(host), *command], text=True,
                              timeout=timeout, check=False, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)

    def _name(self, host):
        return f'strata-{os.getpid()}-{host}'

    def _add_namespace(self, host):
        _ip('netns', 'add', self._name(host))
        _ip('-n', self._name(host), 'link', 'set', 'lo', 'up')
