#!/usr/bin/env python3
"""What deploy/k8s and deploy/compose.yaml say, field by field: manifests_test.py BUILD/bin/strata
BUILD/bin/strata-loadtest

`kubectl kustomize` renders the overlays where it is 1.27 or later; without it the files are merged
here, as far as they need it.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = ROOT / 'deploy' / 'k8s' / 'base'
OVERLAYS = ROOT / 'deploy' / 'k8s' / 'overlays'
BINARY = sys.argv.pop(1)
LOADTEST = sys.argv.pop(1)
VLLM = {'vllm:num_requests_waiting', 'vllm:num_requests_running', 'vllm:kv_cache_usage_perc',
        'vllm:cache_config_info'}


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def by_name(manifests):
    named = {(m['kind'], m['metadata']['name']): m for m in manifests}
    assert len(named) == len(manifests), 'two manifests of one name'
    return named


def seconds(text):
    number, unit = re.fullmatch(r'(\d+)(ms|s|m|h)', text).groups()
    return int(number) * {'ms': 0.001, 's': 1, 'm': 60, 'h': 3600}[unit]


def variables(container):
    return {variable['name']: variable.get('value') for variable in container.get('env', [])}


def options_of(program, *command):
    """The long options that a program's help names."""
    text = subprocess.run([program, *command, '--help'], check=True, stdout=subprocess.PIPE,
                          text=True).stdout
    return set(re.findall(r'--[a-z][a-z-]+', text))


def kubectl_version():
    """(major, minor) of kubectl; None where there is none."""
    if shutil.which('kubectl') is None:
        return None
    done = subprocess.run(['kubectl', 'version', '--client', '--output', 'json'], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if done.returncode != 0:
        return None
    version = json.loads(done.stdout)['clientVersion']
    return int(version['major']), int(re.match(r'\d+', version['minor']).group())


def why_not_rendered():
    version = kubectl_version()
    if version is None:
        return 'kubectl is not installed'
    return f'kubectl {version[0]}.{version[1]} is older than 1.27' if version < (1, 27) else None


class BaseTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        kustomization = yaml.safe_load((BASE / 'kustomization.yaml').read_text())
        cls.manifests = by_name([document for name in kustomization['resources']
                                 for document in documents((BASE / name).read_text())])
        cls.pod = cls.manifests['Deployment', 'strata']['spec']['template']['spec']
        cls.container, = cls.pod['containers']

    def get(self, kind, name='strata'):
        return self.manifests[kind, name]

    def test_every_file_is_used(self):
        listed = yaml.safe_load((BASE / 'kustomization.yaml').read_text())['resources']
        self.assertEqual({path.name for path in BASE.glob('*.yaml')} - {'kustomization.yaml'},
                         set(listed))

    def test_the_grace_period_fits_the_drain(self):
        drain = seconds(variables(self.container)['STRATA_DRAIN_TIMEOUT'])
        pause = self.container['lifecycle']['preStop']['sleep']['seconds']
        readiness = self.container['readinessProbe']
        self.assertGreaterEqual(pause, readiness['periodSeconds'] * readiness['failureThreshold'])
        # After the drain readers get 2 s, and the last bytes half a second on each front.
        self.assertGreaterEqual(self.pod['terminationGracePeriodSeconds'], pause + drain + 3)
        picker = self.get('Deployment', 'strata-endpoint-picker')['spec']['template']['spec']
        self.assertGreaterEqual(picker['terminationGracePeriodSeconds'],
                                self.pod['terminationGracePeriodSeconds'])

    def test_probes_speak_grpc_to_a_port_that_is_open(self):
        ports = {port['containerPort']: port['name'] for port in self.container['ports']}
        self.assertEqual(ports, {50051: 'grpc', 8000: 'http'})
        for probe in ('startupProbe', 'readinessProbe', 'livenessProbe'):
            self.assertEqual(ports[self.container[probe]['grpc']['port']], 'grpc', probe)
        liveness = self.container['livenessProbe']
        self.assertGreater(liveness['periodSeconds'] * liveness['failureThreshold'], 60)

    def test_nothing_is_allowed_that_is_not_needed(self):
        for name in ('strata', 'strata-endpoint-picker'):
            pod = self.get('Deployment', name)['spec']['template']['spec']
            self.assertTrue(pod['securityContext']['runAsNonRoot'])
            self.assertEqual(pod['securityContext']['seccompProfile'], {'type': 'RuntimeDefault'})
            for container in pod['containers']:
                context = container['securityContext']
                self.assertFalse(context['allowPrivilegeEscalation'])
                self.assertTrue(context['readOnlyRootFilesystem'])
                self.assertEqual(context['capabilities'], {'drop': ['ALL']})
        self.assertFalse(self.pod['automountServiceAccountToken'])
        self.assertFalse(self.pod['enableServiceLinks'])
        user = re.search(r'^USER (\d+):(\d+)$', (ROOT / 'deploy' / 'Dockerfile').read_text(), re.M)
        self.assertEqual([str(self.pod['securityContext'][key])
                          for key in ('runAsUser', 'runAsGroup')], list(user.groups()))

    def test_everything_selects_the_pods(self):
        labels = self.get('Deployment')['spec']['template']['metadata']['labels']
        selectors = {
            'Deployment': self.get('Deployment')['spec']['selector']['matchLabels'],
            'Service': self.get('Service')['spec']['selector'],
            'replicas': self.get('Service', 'strata-replicas')['spec']['selector'],
            'PodDisruptionBudget':
                self.get('PodDisruptionBudget')['spec']['selector']['matchLabels'],
            'NetworkPolicy': self.get('NetworkPolicy')['spec']['podSelector']['matchLabels'],
            'PodMonitor': self.get('PodMonitor')['spec']['selector']['matchLabels'],
            'InferencePool': self.get('InferencePool')['spec']['selector']['matchLabels'],
        }
        for kind, selector in selectors.items():
            self.assertTrue(selector and selector.items() <= labels.items(), kind)
        picker = self.get('Deployment', 'strata-endpoint-picker')
        self.assertNotEqual(picker['spec']['template']['metadata']['labels'].get('app'), 'strata')

    def test_services_say_what_they_speak(self):
        ports = {port['name']: port for port in self.get('Service')['spec']['ports']}
        self.assertEqual(ports['grpc']['appProtocol'], 'kubernetes.io/h2c')
        self.assertEqual(ports['grpc']['targetPort'], 'grpc')
        replicas = self.get('Service', 'strata-replicas')['spec']
        self.assertEqual(replicas['clusterIP'], 'None')

    def test_the_autoscaler_reads_metrics_that_the_adapter_makes(self):
        spec = self.get('HorizontalPodAutoscaler')['spec']
        self.assertEqual(spec['scaleTargetRef'],
                         {'apiVersion': 'apps/v1', 'kind': 'Deployment', 'name': 'strata'})
        self.assertNotIn('replicas', self.get('Deployment')['spec'])  # else each apply resets it
        wanted = {metric['pods']['metric']['name'] for metric in spec['metrics']}
        rules = yaml.safe_load(
            (ROOT / 'deploy' / 'k8s' / 'prometheus-adapter-values.yaml').read_text())
        made = {rule['name']['as']: rule for rule in rules['rules']['custom']}
        self.assertEqual(wanted, set(made))
        for rule in made.values():
            series, = re.findall(r'vllm:\w+', rule['seriesQuery'])
            self.assertIn(series, VLLM)
            self.assertIn(series, rule['metricsQuery'])

    def test_the_pool_and_its_picker_are_one(self):
        pool = self.get('InferencePool')
        self.assertEqual(pool['apiVersion'], 'inference.networking.k8s.io/v1')
        self.assertEqual(pool['spec']['targetPorts'], [{'number': 8000}])
        reference = pool['spec']['endpointPickerRef']
        service = self.get('Service', reference['name'])
        self.assertEqual([port['port'] for port in service['spec']['ports']],
                         [reference['port']['number']])
        pod = self.get('Deployment', service['spec']['selector']['app'])['spec']['template']['spec']
        container, = pod['containers']
        flags = dict(argument.removeprefix('--').split('=', 1) for argument in container['args'])
        self.assertEqual(flags['pool-name'], pool['metadata']['name'])
        self.assertEqual(flags['grpc-port'], str(reference['port']['number']))
        self.assertEqual({value for value in flags.values() if value.startswith('vllm:')}, VLLM)
        self.assertEqual(flags['lora-info-metric'], '')
        folder, file = flags['config-file'].rsplit('/', 1)
        mount, = container['volumeMounts']
        self.assertEqual(mount['mountPath'], folder)
        volume, = pod['volumes']
        config = yaml.safe_load(self.get('ConfigMap', volume['configMap']['name'])['data'][file])
        plugins = {plugin['type'] for plugin in config['plugins']}
        profile, = config['schedulingProfiles']
        self.assertEqual({plugin['pluginRef'] for plugin in profile['plugins']}, plugins)
        binding = self.get('RoleBinding', 'strata-endpoint-picker')
        self.assertEqual(binding['subjects'][0]['name'], pod['serviceAccountName'])
        self.assertIn(('Role', binding['roleRef']['name']), self.manifests)
        self.assertIn(('ServiceAccount', pod['serviceAccountName']), self.manifests)

    def test_the_network_policy_opens_the_ports_that_there_are(self):
        spec = self.get('NetworkPolicy')['spec']
        self.assertEqual(spec['policyTypes'], ['Ingress', 'Egress'])
        self.assertEqual(spec['egress'], [])
        names = {port['name'] for port in self.container['ports']}
        for rule in spec['ingress']:
            self.assertTrue(rule['from'])
            self.assertLessEqual({port['port'] for port in rule['ports']}, names)


class OverlayTest(unittest.TestCase):

    def check(self, overlay, container):
        """What an overlay's container adds: options that exist, memory that is enough."""
        known = options_of(BINARY, 'serve')
        for name in variables(container):
            if name.startswith('STRATA_'):
                flag = '--' + name.removeprefix('STRATA_').lower().replace('_', '-')
                self.assertIn(flag, known, overlay)
        resources = container['resources']
        self.assertEqual(resources['requests']['memory'], resources['limits']['memory'])
        self.assertNotIn('cpu', resources['limits'])
        if overlay == 'cuda':
            self.assertEqual(resources['limits']['nvidia.com/gpu'], 1)
            self.assertEqual(variables(container)['STRATA_DEVICE'], 'cuda')
        else:
            self.assertEqual(variables(container)['STRATA_THREADS'], resources['requests']['cpu'])

    def test_patches(self):
        for overlay in ('cpu', 'cuda'):
            kustomization = yaml.safe_load((OVERLAYS / overlay / 'kustomization.yaml').read_text())
            self.assertEqual(kustomization['resources'], ['../../base'])
            patch, = kustomization['patches']
            manifest = yaml.safe_load((OVERLAYS / overlay / patch['path']).read_text())
            self.assertEqual((manifest['kind'], manifest['metadata']['name']),
                             ('Deployment', 'strata'))
            container, = manifest['spec']['template']['spec']['containers']
            self.assertEqual(container['name'], 'strata')
            self.check(overlay, container)

    @unittest.skipIf(why_not_rendered() is not None, why_not_rendered())
    def test_kustomize_renders_them(self):
        for overlay in ('cpu', 'cuda'):
            done = subprocess.run(['kubectl', 'kustomize', str(OVERLAYS / overlay)], check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stderr, '')  # kubectl warns of deprecated fields there
            manifests = by_name(documents(done.stdout))
            self.assertIn(('InferencePool', 'strata'), manifests)
            pod = manifests['Deployment', 'strata']['spec']['template']['spec']
            container, = pod['containers']
            self.check(overlay, container)
            # The overlay keeps the base's settings.
            self.assertIn('STRATA_DRAIN_TIMEOUT', variables(container))
            self.assertIn('lifecycle', container)
            self.assertRegex(container['image'], '^strata:(latest|cuda)$')


class ComposeTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = ROOT / 'deploy'
        cls.services = yaml.safe_load((cls.folder / 'compose.yaml').read_text())['services']

    def test_files_are_where_it_looks(self):
        for name, service in self.services.items():
            for volume in service.get('volumes', []):
                self.assertTrue((self.folder / volume.split(':')[0]).exists(), (name, volume))
                self.assertTrue(volume.endswith(':ro'), volume)
        build = self.services['strata']['build']
        self.assertTrue((self.folder / build['context'] / build['dockerfile']).exists())

    def test_options_exist(self):
        known = options_of(BINARY, 'serve')
        for name in self.services['strata']['environment']:
            self.assertIn('--' + name.removeprefix('STRATA_').lower().replace('_', '-'), known)
        known = options_of(LOADTEST)
        load = self.services['load']
        for argument in load['command']:
            self.assertIn(argument.split('=')[0], known)
        self.assertEqual(load['image'], self.services['strata']['image'])

    def test_the_load_goes_on(self):
        load = self.services['load']
        # The image's own check asks a server, and this container is none: `up --wait` would fail.
        self.assertEqual(load['healthcheck'], {'disable': True})
        # A run keeps its measurements in memory until its end; then the next begins.
        arguments = dict(argument.partition('=')[::2] for argument in load['command'])
        self.assertLessEqual(seconds(arguments['--duration']), 3600)
        self.assertEqual(load['restart'], 'unless-stopped')

    def test_it_all_meets(self):
        """Who talks to whom, by the names that compose gives them."""
        config = yaml.safe_load((self.folder / 'prometheus' / 'prometheus.yml').read_text())
        target, = config['scrape_configs'][0]['static_configs'][0]['targets']
        self.assertEqual(target, 'strata:8000')
        provisioning = self.folder / 'grafana' / 'provisioning'
        source, = yaml.safe_load(
            (provisioning / 'datasources' / 'prometheus.yml').read_text())['datasources']
        self.assertEqual(source['url'], 'http://prometheus:9090')
        provider, = yaml.safe_load(
            (provisioning / 'dashboards' / 'strata.yml').read_text())['providers']
        mounted = [volume.split(':')[1] for volume in self.services['grafana']['volumes']]
        self.assertIn(provider['options']['path'] + '/strata.json', mounted)
        self.assertEqual(
            self.services['grafana']['environment']['GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH'],
            provider['options']['path'] + '/strata.json')
        self.assertLessEqual({'strata', 'prometheus', 'grafana', 'load'}, set(self.services))

    def test_it_is_closed_to_other_machines(self):
        for name, service in self.services.items():
            for port in service.get('ports', []):
                self.assertTrue(port.startswith('127.0.0.1:'), (name, port))
        self.assertGreater(seconds(self.services['strata']['stop_grace_period']), 33)


if __name__ == '__main__':
    unittest.main()
