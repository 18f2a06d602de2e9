#!/usr/bin/env python3
"""The table and the plot of sharing.sh, from its results: sharing_plot.py OUT"""

import json
import pathlib
import statistics
import sys

OUT = pathlib.Path(sys.argv[1])
PLANS = ['plain', 'svformer', 'reuse', 'svformer-reuse']
COLOURS = ['#6b7280', '#2563eb', '#d97706', '#059669']
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 330, 56, 20, 52, 44


def table(results):
    base = results['plain']

    def counted(result, key):
        ratio = result[key] / base[key]
        return f'{result[key]:.0f}' + ('' if result is base else f' ({ratio:.2f}x)')

    def reached(result):
        """Of each order of the trace that filled its cache."""
        return [json.loads(path.read_text())['server_reached_before_preemption']
                for path in sorted(OUT.glob(f"{result['label']}.fill.*.json"))]

    def filled(result):
        own, plain = reached(result), reached(base)
        mean = statistics.mean(own)
        ratio = '' if result is base else f' ({mean / statistics.mean(plain):.2f}x)'
        return f'{mean:.0f}{ratio}, {min(own):.0f} to {max(own):.0f}'

    def seconds(result, key):
        return ' and '.join(f"{result[f'{p}_{key}_ms'] / 1e3:.2f}" for p in ('p50', 'p99'))

    columns = [
        ('cache bytes a token', lambda r: f"{r['server']['bytes_per_token']:,}"),
        ('tokens in 192 MiB', lambda r: f"{r['server']['cache_tokens']:,}"),
        ('most running before a preemption', filled),
        ('held on average while the cache is full', lambda r: counted(r, 'server_held_when_full')),
        ('preemptions', lambda r: f"{r['server_preemptions']:.0f}"),
        ('goodput, requests/s', lambda r: f"{r['request_goodput']:.1f} ({100 * r['good_share']:.0f} %)"),
        ('requests/s', lambda r: f"{r['request_throughput']:.1f}"),
        ('output tokens/s', lambda r: f"{r['output_throughput']:.0f}"),
        ('first token, p50 and p99 s', lambda r: seconds(r, 'ttft')),
        ('a token, p50 and p99 s', lambda r: seconds(r, 'tpot')),
        ('end to end, p50 and p99 s', lambda r: seconds(r, 'e2el')),
    ]
    lines = ['| | ' + ' | '.join(f'`{plan}`' for plan in results) + ' |',
             '| --- |' + ' --- |' * len(results)]
    for title, value in columns:
        lines.append(f'| {title} | ' + ' | '.join(value(r) for r in results.values()) + ' |')
    return '\n'.join(lines) + '\n'


def plot(results):
    """Running sequences over time, a line a plan."""
    lines = {}
    for plan, result in results.items():
        timeline = result['series']['timeline']
        lines[plan] = [(second, running) for second, running
                       in zip(timeline['seconds'], timeline['running']) if running is not None]
    longest = max(line[-1][0] for line in lines.values())
    most = max(1, *(running for line in lines.values() for _, running in line))

    def x(second):
        return LEFT + second / longest * (WIDTH - LEFT - RIGHT)

    def y(running):
        return HEIGHT - BOTTOM - running / most * (HEIGHT - TOP - BOTTOM)

    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for tick in range(0, int(most) + 1, 200):
        svg.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
                   'stroke="#e5e7eb"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for tick in range(0, int(longest) + 1, 20):
        svg.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" '
                   f'text-anchor="middle">{tick}</text>')
    svg.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">seconds</text>')
    svg.append(f'<text x="{LEFT}" y="18">sequences running in 192 MiB of cache</text>')
    for i, ((plan, line), colour) in enumerate(zip(lines.items(), COLOURS)):
        points = ' '.join(f'{x(second):.1f},{y(running):.1f}' for second, running in line)
        svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        most_of_plan = max(running for _, running in line)
        svg.append(f'<text x="{LEFT + 175 * i}" y="38" fill="{colour}">'
                   f'{plan}: at most {most_of_plan:.0f}</text>')
    return '\n'.join(svg) + '\n</svg>\n'


def main():
    results = {plan: json.loads((OUT / f'{plan}.json').read_text())
               for plan in PLANS if (OUT / f'{plan}.json').exists()}
    (OUT / 'sharing.md').write_text(table(results))
    (OUT / 'sharing.svg').write_text(plot(results))
    print((OUT / 'sharing.md').read_text())


main()
