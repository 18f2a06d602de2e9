#!/usr/bin/env python3
"""What three replicas behind HAProxy lose under faults, and what affinity is worth, in figures:

    tests/deploy/replicas_report.py BUILD/bin/strata BUILD/bin/strata-loadtest [faults|affinity]

By hand, as root; some four minutes each on two cores. Prints tables in Markdown. replicas_test.py
is the same in short.
"""

import sys

import faults
from replica_set import ReplicaSet, missing

FAULTS = (
    ('SIGKILL of one', faults.kill),
    ('SIGTERM of one, HAProxy not told', faults.stop_unannounced),
    ('rolling restart of all three', faults.roll),
)
ROUNDS = 3
# SmolLM2-135M's shape: 23,040 bytes a token, so that a prefix of 512 takes 11.8 MB and all 24 take
# 283 MB; a replica has room for 14 of them.
AFFINITY_SERVE = ['--shape', 'smollm-135m', '--weights', 'int8', '--threads', '1', '--cache-bytes',
                  '160MiB']
AFFINITY_LOAD = ['--users', '12', '--warm-up', '20s', '--duration', '80s', '--prefix-groups', '24',
                 '--prefix-tokens', '512', '--input-tokens', '32', '--output-tokens', '32']


def row(*cells):
    print('| ' + ' | '.join(str(cell) for cell in cells) + ' |', flush=True)


def report_faults(binary, loadtest):
    row('fault', 'routing', 'streams on it before', 'lost', 'cut off on other replicas',
        'completed', 'statuses')
    row(*['---'] * 7)
    with ReplicaSet(binary, loadtest, '--threads', '1', '--cache-bytes', '16MiB') as replicas:
        for name, act in FAULTS:
            for routing, flags in (('affinity', ['--sessions']), ('fewest', [])):
                rounds = [faults.under_load(replicas, [
                    '--users', '24', '--duration', '10s', '--input-tokens', '32',
                    '--output-tokens', '300', *flags], act) for _ in range(ROUNDS)]
                codes = {code for fault in rounds for code in fault.exit_codes}
                assert codes <= {0}, f'{name}: a replica exited with {codes}'
                statuses = {error['message'].split(':')[0] for fault in rounds
                            for error in fault.result['errors_by_message']}
                row(name, routing, *('+'.join(str(number) for number in numbers) for numbers in (
                    [fault.streams for fault in rounds],
                    [fault.result['failed'] for fault in rounds],
                    [sum(fault.cut.values()) - fault.cut[fault.victim] for fault in rounds],
                    [fault.result['completed'] for fault in rounds])),
                    ', '.join(sorted(statuses)))


def report_affinity(binary, loadtest):
    print()
    row('routing', "share of prompt tokens found", 'requests/s', 'output tokens/s',
        'first token, p50 and p99 ms')
    row(*['---'] * 5)
    outcome = faults.affinity(binary, loadtest, AFFINITY_SERVE, AFFINITY_LOAD)
    for name, result in outcome.items():
        row(name, f"{100 * result['hit_share']:.1f} %", f"{result['request_throughput']:.2f}",
            f"{result['output_throughput']:.0f}",
            f"{result['median_ttft_ms']:.0f} and {result['p99_ttft_ms']:.0f}")
    gain = outcome['affinity']['request_throughput'] / outcome['random']['request_throughput']
    print(f'\naffinity: {gain:.2f} times the requests a second of random routing')


if __name__ == '__main__':
    reason = missing()
    if reason is not None:
        sys.exit(f'replicas_report: {reason}')
    parts = {'faults': report_faults, 'affinity': report_affinity}
    if len(sys.argv) not in (3, 4) or not set(sys.argv[3:]) <= set(parts):
        sys.exit(__doc__)
    for part in sys.argv[3:] or parts:
        parts[part](*sys.argv[1:3])
