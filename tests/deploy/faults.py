"""What happens to the streams of three replicas behind HAProxy when one of them goes, and what
affinity is worth: the experiments that replicas_test.py runs in short and replicas_report.py in
full."""

import collections
import dataclasses
import signal
import time

from replica_set import REPLICAS, ReplicaSet, random_routing

VICTIM = 'replica-2'


@dataclasses.dataclass
class Fault:
    """A load, and what was done meanwhile."""
    result: dict  # of strata-loadtest
    log: list  # HAProxy's, of the load's streams
    done_at: float  # when what was done was done, and every replica up again
    exit_codes: list  # of replicas that were told to stop
    streams: int  # that the victim had just before, as HAProxy counts

    @property
    def cut(self):
        """Streams that did not end as HTTP/2 streams do, as HAProxy saw it, by replica."""
        return collections.Counter(line['server'] for line in self.log if line['ended'] != '--')

    @property
    def served_after(self):
        return collections.Counter(line['server'] for line in self.log if line['at'] > self.done_at)


def under_load(replicas, flags, act):
    """`act(replicas)` in the midst of a load; what it returns are exit codes."""
    begin = len(replicas.log)
    process = replicas.start_load(*flags)
    time.sleep(1)
    streams = replicas.streams(VICTIM)
    codes = act(replicas)
    done_at = time.monotonic()
    result = replicas.finish_load(process)
    time.sleep(0.3)  # the log's last lines
    return Fault(result, replicas.log[begin:], done_at, codes, streams)


def kill(replicas):
    """SIGKILL; it comes back after HAProxy has noticed."""
    replicas.send(VICTIM, signal.SIGKILL)
    replicas.wait(VICTIM)
    deadline = time.monotonic() + 30
    while replicas.state(VICTIM) != 'DOWN':
        assert time.monotonic() < deadline, 'HAProxy does not notice'
        time.sleep(0.05)
    replicas.start(VICTIM)
    replicas.wait_up(VICTIM)
    return []


def stop_unannounced(replicas):
    """SIGTERM, of which HAProxy hears by its checks alone."""
    replicas.send(VICTIM, signal.SIGTERM)
    code = replicas.wait(VICTIM)
    replicas.start(VICTIM)
    replicas.wait_up(VICTIM)
    return [code]


def roll(replicas):
    """Every replica in turn, as deploy/README.md says."""
    return [replicas.restart(name) for name in REPLICAS]


def affinity(binary, loadtest, serve, load):
    """{'affinity': ..., 'random': ...}: a load of sessions that share prefixes under deploy/haproxy.cfg
    and with sessions sent anywhere, each on replicas that start empty: strata-loadtest's result with
    `hit_share`, of the tokens of all prompts."""
    outcome = {}
    for name, config in (('affinity', None), ('random', random_routing())):
        with ReplicaSet(binary, loadtest, *serve, config=config) as replicas:
            result = replicas.load('--sessions', *load)
            counters = replicas.counters()
        outcome[name] = {**result, 'hit_share': counters['strata_cached_tokens_total'] /
                         counters['strata_prompt_tokens_total']}
    return outcome
