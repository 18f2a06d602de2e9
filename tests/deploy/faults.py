"""What happens to the streams of three replicas behind HAProxy when one of them goes, and what
affinity is worth: the experiments that replicas_test.py runs in short and replicas_report.py in
full."""

import collections
import dataclasses
import signal
import time

from replica_set import REPLICAS, ReplicaSet, random_routing

@dataclasses.dataclass
class Fault:
    """A load, and what was done to the replica that then had the most streams."""
    victim: str
    streams: int  # its streams just before, as HAProxy counts
    result: dict  # of strata-loadtest
    rows: list  # likewise, a request each
    log: list  # HAProxy's, of the load's streams
    done_at: float  # time when the act was done and every replica was up again
    exit_codes: list  # of replicas that were told to stop

    @property
    def cut(self):
        """Streams that did not end as HTTP/2 streams do, as HAProxy saw it, by replica."""
        return collections.Counter(line['server'] for line in self.log if line['ended'] != '--')

    @property
    def refused(self):
        """Streams that the replica had not answered with a byte when its connection was lost.
        HAProxy refuses them, so that the client may ask again, and writes no line for them."""
        return sum(error['count'] for error in self.result['errors_by_message']
                   if 'RST_STREAM with error code 7' in error['message'])

    @property
    def failed_later(self):
        """Requests that failed though they were sent after the first failure was seen."""
        failed = [row for row in self.rows if row['outcome'] == 'failed']
        first = min((float(row['end_s']) for row in failed), default=0)
        return [row for row in failed if float(row['sent_s']) > first]

    @property
    def served_after(self):
        return collections.Counter(line['server'] for line in self.log if line['at'] > self.done_at)


def under_load(replicas, flags, act):
    """`act(replicas, victim)` in the midst of a load; what it returns are exit codes."""
    begin = len(replicas.log)
    process = replicas.start_load(*flags)
    time.sleep(1)
    streams, victim = max((replicas.streams(name), name) for name in REPLICAS)
    codes = act(replicas, victim)
    done_at = time.monotonic()
    result = replicas.finish_load(process)
    time.sleep(0.3)  # the log's last lines
    return Fault(victim, streams, result, replicas.load_rows(), replicas.log[begin:], done_at,
                 codes)


def kill(replicas, victim):
    """SIGKILL; it comes back after HAProxy has noticed."""
    replicas.send(victim, signal.SIGKILL)
    replicas.wait(victim)
    deadline = time.monotonic() + 30
    while replicas.state(victim) != 'DOWN':
        assert time.monotonic() < deadline, 'HAProxy does not notice'
        time.sleep(0.05)
    replicas.start(victim)
    replicas.wait_up(victim)
    return []


def stop_unannounced(replicas, victim):
    """SIGTERM, of which HAProxy hears by its checks alone."""
    replicas.send(victim, signal.SIGTERM)
    code = replicas.wait(victim)
    replicas.start(victim)
    replicas.wait_up(victim)
    return [code]


def roll(replicas, _):
    """Every replica in turn, as deploy/README.md says."""
    return [replicas.restart(name) for name in REPLICAS]


def affinity(binary, loadtest, serve, load):
    """{'affinity': ..., 'random': ...}: a load of sessions that share prefixes under
    deploy/haproxy.cfg and with sessions sent anywhere, each on replicas that start empty:
    strata-loadtest's result with `hit_share`, of the tokens of all prompts."""
    outcome = {}
    for name, config in (('affinity', None), ('random', random_routing())):
        with ReplicaSet(binary, loadtest, *serve, config=config) as replicas:
            result = replicas.load('--sessions', *load)
            counters = replicas.counters()
        outcome[name] = {**result, 'hit_share': counters['strata_cached_tokens_total'] /
                         counters['strata_prompt_tokens_total']}
    return outcome
