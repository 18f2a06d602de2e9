#!/usr/bin/env python3
"""Who may include whom: the rooms of the code, and which headers none of a folder's files may reach,
however many headers lie between. Prints every violation as FILE: why.

To add a room, or an arrow between two, is to change ROOMS.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Each room, and the other rooms that its files may name in an #include.
ROOMS = {
    'kernels': ['kernels/cpu'],  # backend.cpp makes one
    'kernels/cpu': ['kernels'],
    'kernels/cuda': ['kernels', 'kernels/cpu'],
    'kvcache/base': ['kernels'],
    'kvcache/plan': ['kvcache/base', 'kernels'],
    'kvcache/blocks': ['kvcache/plan', 'kernels'],
    'engine/base': ['kvcache/base', 'kernels'],  # status_macros.h alone: see UNREACHABLE
    'engine/model': ['engine/base', 'kvcache/base', 'kvcache/plan', 'kernels'],
    'engine/decode': ['engine/model', 'engine/base', 'kvcache/base', 'kvcache/plan', 'kernels'],
    'engine/serve': ['engine/decode', 'engine/model', 'engine/base', 'kvcache/base',
                     'kvcache/blocks', 'kvcache/plan', 'kernels'],
    'server/base': ['engine/base', 'kvcache/base'],
    'server/text': ['server/base', 'engine/base', 'kvcache/base'],
    'server/security': ['server/base', 'engine/base', 'kvcache/base'],
    'server/telemetry': ['server/base', 'engine/base', 'kvcache/base', 'engine/serve'],
    'server/generation': ['server/security', 'server/telemetry', 'server/text', 'server/base',
                          'engine/base', 'kvcache/base', 'engine/serve'],
    'server/http': ['server/security', 'server/base', 'engine/base', 'kvcache/base'],
    'server/openai': ['server/generation', 'server/http', 'server/security', 'server/telemetry',
                      'server/text', 'server/base', 'engine/base', 'kvcache/base', 'engine/serve'],
    'server/grpc': ['server/generation', 'server/security', 'server/telemetry', 'server/text',
                    'server/base', 'engine/base', 'kvcache/base', 'engine/serve', 'proto'],
    'server': ['server/openai', 'server/grpc', 'server/generation', 'server/http',
               'server/security', 'server/telemetry', 'server/text', 'server/base', 'engine/base',
               'kvcache/base', 'engine/serve'],
    'server/cli': ['server', 'server/openai', 'server/grpc', 'server/generation', 'server/http',
                   'server/security', 'server/telemetry', 'server/text', 'server/base',
                   'engine/base', 'kvcache/base', 'engine/serve', 'proto'],
}
# Folders, and headers that none of their files may reach through any number of headers.
UNREACHABLE = [
    ('server', r'kernels/(?!status_macros\.h)|kvcache/(?!base/)|engine/(model|decode)/'),
    ('engine/base', r'kernels/(?!status_macros\.h)|kvcache/(?!base/)'),
    ('kvcache', r'engine/|server/'),
    ('engine', r'kernels/(cpu|cuda)/'),
    ('engine/model', r'engine/(decode|serve)/|kvcache/blocks/'),
    ('kvcache/plan', r'kernels/backend\.h'),
]
# Folders, and libraries of other rooms that none of their files may name.
UNNAMED = [
    ('kernels', r'grpc|google/protobuf|nlohmann'),
    ('kvcache', r'grpc|google/protobuf'),
    ('engine', r'grpc|google/protobuf|prometheus|httplib'),
    ('server/http', r'grpc|google/protobuf|nlohmann'),
    ('server/text', r'grpc|google/protobuf'),
] + [(folder, 'cuda|cublas') for folder in ('kvcache', 'engine', 'server', 'kernels/cpu')]
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def room_of(path):
    """The room of a header or source; None where it is none of ours."""
    if path.startswith('strata/v1/'):
        return 'proto'
    folder = path.rpartition('/')[0]
    return folder if folder in ROOMS else None


def main():
    sources = {}
    faults = []
    for top in sorted({room.partition('/')[0] for room in ROOMS}):
        for path in sorted((ROOT / top).rglob('*')):
            if path.suffix in ('.h', '.cpp', '.cu', '.cuh'):
                name = path.relative_to(ROOT).as_posix()
                sources[name] = [include[1] for include in INCLUDE.findall(path.read_text())]
                if room_of(name) is None:
                    faults.append(f'{name}: no room is called {name.rpartition("/")[0]}')

    reached = {}  # by file

    def reach(name):
        """All of our headers that a file brings, itself left out."""
        if name not in reached:
            reached[name] = set()
            for include in sources.get(name, []):
                if include in sources:
                    reached[name] |= {include} | reach(include)
        return reached[name]

    for name, includes in sources.items():
        room = room_of(name)
        for include in includes:
            other = room_of(include)
            if room and other and other != room and other not in ROOMS[room]:
                faults.append(f'{name}: {room} does not include {other}: {include}')
            for folder, pattern in UNNAMED:
                if name.startswith(folder + '/') and re.match(pattern, include):
                    faults.append(f'{name}: {folder} does not include {include}')
        for folder, pattern in UNREACHABLE:
            if name.startswith(folder + '/'):
                faults += [f'{name}: reaches {other}' for other in sorted(reach(name))
                           if re.match(pattern, other)]
        # Deadlines and ages use the steady clock: the system's time may be set at any time.
        if not name.startswith('server/') and 'system_clock' in (ROOT / name).read_text():
            faults.append(f'{name}: times of the engine are the steady clock\'s')
    print('\n'.join(faults) if faults else
          f'{len(sources)} files of {len(ROOMS)} rooms include what they may')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
