#!/usr/bin/env python3
"""The dashboard and the alerts against a loaded server: dashboard_test.py BUILD/bin/strata
BUILD/bin/strata-loadtest

Debian's Prometheus scrapes it under deploy/prometheus/; then every query of the dashboard
(deploy/grafana/strata.json) and every series that an alert reads must be there, with numbers. Skips
itself where prometheus is not installed (deploy/install_packages.sh --deploy).
"""

import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'server'))
from strata_http import call, metrics, total, wait_for  # noqa: E402
from strata_process import Served, run  # noqa: E402

BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)
DASHBOARD = json.loads((ROOT / 'deploy' / 'grafana' / 'strata.json').read_text())
PROMETHEUS = ROOT / 'deploy' / 'prometheus'
MISSING = [name for name in ('prometheus', 'promtool') if shutil.which(name) is None]
# Variables that Grafana fills in.
VARIABLES = {'$instance': '.*', '$__rate_interval': '10s'}


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def panels():
    """(title, query) of each target."""
    for panel in DASHBOARD['panels']:
        for target in panel.get('targets', []):
            query = target['expr']
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel['title'], query


@unittest.skipIf(MISSING, "Debian's package prometheus is not installed")
class PromtoolTest(unittest.TestCase):

    def promtool(self, *arguments):
        done = run('promtool', *arguments)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_configuration_and_rules(self):
        self.promtool('check', 'config', str(PROMETHEUS / 'prometheus.yml'))
        self.promtool('check', 'rules', str(PROMETHEUS / 'alerts.yml'))

    def test_alerts_fire_when_due(self):
        self.promtool('test', 'rules', str(ROOT / 'tests' / 'deploy' / 'alerts_test.yml'))
        cases = (ROOT / 'tests' / 'deploy' / 'alerts_test.yml').read_text()
        for alert in re.findall(r'alert: (\w+)', (PROMETHEUS / 'alerts.yml').read_text()):
            self.assertIn(f'alertname: {alert}', cases)


@unittest.skipIf(MISSING, "Debian's package prometheus is not installed")
class DashboardTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        # Small enough that requests wait, are refused and are preempted.
        cls.server = Served(BINARY, '--threads', '1', '--cache-bytes', '1MiB', '--max-running', '8',
                            '--max-queue', '8', '--cross-layer', 'reuse', '--model',
                            str(ROOT / 'deploy' / 'models' / 'reuse')).__enter__()
        cls.addClassCleanup(cls.server.__exit__)
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.start_prometheus(pathlib.Path(folder.name))
        cls.load()

    @classmethod
    def start_prometheus(cls, folder):
        """Under the files that ship; only who is scraped and how often is this test's."""
        text = (PROMETHEUS / 'prometheus.yml').read_text()
        for old, new in (('[strata:8000]', f'["{cls.server.http_address}"]'),
                         ('scrape_interval: 5s', 'scrape_interval: 1s'),
                         ('evaluation_interval: 15s', 'evaluation_interval: 1s')):
            assert text.count(old) == 1, f'prometheus.yml has no {old}'
            text = text.replace(old, new)
        (folder / 'prometheus.yml').write_text(text)
        shutil.copy(PROMETHEUS / 'alerts.yml', folder)
        cls.url = f'http://127.0.0.1:{free_port()}'
        with open(folder / 'log', 'w', encoding='utf-8') as log:
            process = subprocess.Popen(
                ['prometheus', f'--config.file={folder}/prometheus.yml',
                 f'--storage.tsdb.path={folder}/data',
                 f'--web.listen-address={cls.url.removeprefix("http://")}'], stderr=log)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.terminate)

        def ready():
            assert process.poll() is None, (folder / 'log').read_text()
            try:
                with urllib.request.urlopen(f'{cls.url}/-/ready', timeout=30):
                    return cls.instant('up') != []
            except OSError:  # not listening yet, or 503
                return False

        wait_for(ready, 'Prometheus does not scrape')

    @classmethod
    def load(cls):
        done = run(LOADTEST, '--server', cls.server.address, '--users', '24', '--duration', '6s',
                   '--prefix-groups', '2', '--prefix-tokens', '64', '--input-tokens', '40',
                   '--output-tokens', '150', '--cancel-share', '0.1', '--quiet')
        assert done.returncode == 0, done.stdout + done.stderr
        status, _, _ = call(cls.server, 'POST', '/v1/completions',
                            {'temperature': -1, 'prompt': 'x'})
        assert status == 400
        seen = metrics(cls.server)
        for event in ('preemptions', 'rejections', 'cached_tokens', 'recomputed_tokens'):
            assert total(seen, f'strata_{event}_total') > 0, f'the load made no {event}'
        time.sleep(1.5)  # the last scrape

    @classmethod
    def ask(cls, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f'{cls.url}/api/v1/{path}?{query}', timeout=30) as answer:
                return json.load(answer)['data']
        except urllib.error.HTTPError as error:
            raise AssertionError(f'{parameters}: {error.read().decode()}') from error

    @classmethod
    def instant(cls, query):
        return cls.ask('query', query=query)['result']

    def numbers(self, query):
        """Of a graph of the last ten seconds."""
        now = time.time()
        result = self.ask('query_range', query=query, start=now - 10, end=now, step=1)['result']
        values = [float(value) for series in result for _, value in series['values']]
        return [value for value in values if math.isfinite(value)]

    def test_every_panel_has_data(self):
        seen = set()
        for title, query in panels():
            with self.subTest(panel=title, query=query):
                self.assertTrue(self.numbers(query))
            seen.add(title)
        self.assertGreater(len(seen), 20)

    def test_what_panels_show_is_so(self):
        """A few whose numbers are known otherwise."""
        shown = dict(panels())
        self.assertEqual(set(self.numbers(shown['Replicas'])), {1})
        # The plan of this model takes 2,560 bytes a token beside its scores, of 4,096.
        self.assertAlmostEqual(self.numbers(shown['Saved by sharing'])[-1], 1 - 2560 / 4096)
        self.assertGreater(max(self.numbers(shown['Cache in use'])), 0.5)
        self.assertLessEqual(max(self.numbers(shown['Where the engine\'s time goes'])), 1.05)

    def test_every_alert_finds_its_series(self):
        groups = self.ask('rules')['groups']
        rules = [rule for group in groups for rule in group['rules']]
        self.assertGreater(len(rules), 5)
        for rule in rules:
            self.assertEqual(rule['health'], 'ok', rule)
            selectors = re.findall(r'\b(?:vllm:|strata_|up\b)\w*(?:\{[^}]*\})?', rule['query'])
            self.assertTrue(selectors, rule['query'])
            for selector in selectors:
                with self.subTest(alert=rule['name'], selector=selector):
                    self.assertTrue(self.numbers(selector))

    def test_the_dashboard_is_one_that_grafana_takes(self):
        ids = [panel['id'] for panel in DASHBOARD['panels']]
        self.assertEqual(len(ids), len(set(ids)))
        places = set()
        for panel in DASHBOARD['panels']:
            place = panel['gridPos']
            self.assertLessEqual(place['x'] + place['w'], 24, panel['title'])
            for x in range(place['x'], place['x'] + place['w']):
                for y in range(place['y'], place['y'] + place['h']):
                    self.assertNotIn((x, y), places, panel['title'])
                    places.add((x, y))
            if panel['type'] != 'row':
                self.assertEqual(panel['datasource']['uid'], '${datasource}')
                self.assertTrue(panel['description'])


if __name__ == '__main__':
    unittest.main()
