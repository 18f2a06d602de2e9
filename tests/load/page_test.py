#!/usr/bin/env python3
"""The load test's page in a headless Chromium: page_test.py BUILD/bin/strata BUILD/bin/strata-loadtest

Skips itself where Debian's package chromium is not installed.
"""

import html.parser
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'server'))
from strata_process import TIMEOUT, Served, run  # noqa: E402

BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)
CHROMIUM = shutil.which('chromium')
FIGURES = {'ttft', 'tpot', 'itl', 'e2el', 'context', 'latency_over_rate', 'throughput_over_rate',
           'goodput_over_rate', 'goodput', 'tokens_per_s', 'reached', 'held', 'sequences',
           'cache', 'in_flight', 'tokens'}


class Page(html.parser.HTMLParser):
    """What the script drew: {figure: [the attributes of each mark that shows data]}."""

    def __init__(self, dom):
        super().__init__()
        self.root = {}
        self.figures = {}
        self.text = ''
        self._figure = None
        self.feed(dom)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'html':
            self.root = attrs
        elif tag == 'figure':
            self._figure = self.figures.setdefault(attrs['id'], [])
        elif attrs.get('class') == 'data':
            self._figure.append(attrs)

    def handle_data(self, data):
        self.text += data


@unittest.skipIf(CHROMIUM is None, "Debian's package chromium is not installed")
class PageTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.page = self.folder / 'page.html'

    def browse(self, *flags):
        command = [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
                   f'--user-data-dir={self.folder}/profile', *flags, self.page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT,
                              check=True)
        return done.stdout

    def check(self, reports):
        page = Page(self.browse('--dump-dom'))
        self.assertEqual(page.root.get('data-errors'), '0', page.root.get('data-last-error'))
        self.assertEqual(page.root.get('data-drawn'), 'yes')
        self.assertEqual(set(page.figures), FIGURES)
        for name, marks in page.figures.items():
            self.assertGreaterEqual(len(marks), reports, name)
            for mark in marks:
                numbers = re.findall(r'[-\d.]+', mark.get('d') or mark.get('cx') or mark['width'])
                self.assertTrue(numbers, f'{name}: {mark}')
                self.assertTrue(all(math.isfinite(float(number)) for number in numbers), mark)
                self.assertNotIn('NaN', str(mark))
        return page

    def photograph(self):
        picture = self.folder / 'page.png'
        self.browse(f'--screenshot={picture}', '--window-size=1240,2600')
        self.assertEqual(picture.read_bytes()[:4], b'\x89PNG')
        self.assertGreater(picture.stat().st_size, 50_000)  # an empty page has a tenth

    def test_every_plot_has_data(self):
        with Served(BINARY) as server:
            flags = ['--metrics', server.http_address, '--server', server.address]
            result = self.folder / 'one.json'
            done = run(LOADTEST, *flags, '--users', '6', '--duration', '2s', '--json', result,
                       '--label', '<b>one</b>', '--html', self.page)
            self.assertEqual(done.returncode, 0, done.stderr)
            page = self.check(1)
            self.assertIn('<b>one</b>', page.text)
            self.assertIn('requests completed', page.text)

            done = run(LOADTEST, '--users', '2', '--duration', '1s', '--html', self.page,
                       '--goodput', 'ttft:50', '--compare', f'one={result}',
                       f'two={server.address},{server.http_address}')
            self.assertEqual(done.returncode, 0, done.stderr)
            self.check(2)
            self.photograph()

            done = run(LOADTEST, *flags, '--sweep', '--rate', '8', '--duration', '1s', '--goodput',
                       'ttft:40', '--input-tokens', '400', '--html', self.page)
            self.assertEqual(done.returncode, 0, done.stderr)
            page = self.check(1)
            self.assertGreater(len(page.figures['throughput_over_rate']), 3)


if __name__ == '__main__':
    unittest.main()
