#!/usr/bin/env python3
"""Three replicas behind HAProxy, in short: replicas_test.py BUILD/bin/strata
BUILD/bin/strata-loadtest

On hosts of a network of their own; skips itself, with the reason, where none can be made or HAProxy
is not installed. replicas_report.py is the same at length, with figures.
"""

import sys
import unittest

import faults
from replica_set import REPLICAS, ReplicaSet, missing

BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)
MISSING = missing()
SERVE = ['--threads', '1', '--cache-bytes', '16MiB']


@unittest.skipIf(MISSING is not None, MISSING)
class FaultsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.replicas = ReplicaSet(BINARY, LOADTEST, *SERVE).__enter__()
        cls.addClassCleanup(cls.replicas.__exit__)

    def load(self, act, *flags):
        fault = faults.under_load(self.replicas, [
            '--users', '12', '--duration', '9s', '--input-tokens', '32', '--output-tokens', '100',
            *flags], act)
        self.assertEqual(fault.result['unfinished'] + fault.result['unsent'], 0)
        self.assertGreater(fault.result['completed'], 12)
        self.assertEqual(set(fault.served_after), set(REPLICAS))  # each is one of the three again
        return fault

    def test_a_killed_replica_loses_its_own_streams_only(self):
        fault = self.load(faults.kill, '--sessions')
        # Each stream that HAProxy saw cut was the victim's, and the client counts it.
        self.assertLessEqual(set(fault.cut), {fault.victim})
        self.assertEqual(fault.result['failed'], fault.cut[fault.victim] + fault.refused)
        self.assertGreater(fault.result['failed'], 0)
        self.assertLessEqual(fault.result['failed'], 12)
        self.assertEqual(sum(error['count'] for error in fault.result['errors_by_message']),
                         fault.result['failed'])
        # Later requests went to other replicas, before a check had failed.
        self.assertEqual(fault.failed_later, [])

    def test_a_rolling_restart_loses_nothing(self):
        fault = self.load(faults.roll)
        self.assertEqual(fault.exit_codes, [0, 0, 0])
        self.assertEqual(fault.result['failed'], 0, fault.result['errors_by_message'])
        self.assertEqual(fault.cut, {})


@unittest.skipIf(MISSING is not None, MISSING)
class AffinityTest(unittest.TestCase):

    def test_sessions_find_their_prefixes(self):
        # Fourteen prefixes of 590 kB in the default model's cache: a replica has room for seven.
        outcome = faults.affinity(
            BINARY, LOADTEST, ['--threads', '1', '--cache-bytes', '4MiB', '--block-tokens', '16'],
            ['--users', '6', '--requests', '200', '--prefix-groups', '14', '--prefix-tokens', '256',
             '--input-tokens', '16', '--output-tokens', '4'])
        for result in outcome.values():
            self.assertEqual(result['completed'], 200)
        print({name: round(result['hit_share'], 3) for name, result in outcome.items()})
        self.assertGreater(outcome['affinity']['hit_share'], outcome['random']['hit_share'] + 0.15)


if __name__ == '__main__':
    unittest.main()
