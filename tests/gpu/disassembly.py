#!/usr/bin/env python3
"""Holds the machine code of kernels to what their speed hangs on: disassembly.py CUBIN...

    loops in which loads are to be under way before the first matrix instruction (LOOPS)
    sums of 64 bits in shared memory, which are loops of compare and swap: none

Needs nvdisasm, which comes with CUDA's full toolkit or from PyPI (nvidia-cuda-nvdisasm): in PATH, or
its path in NVDISASM. Exits with 1, a line for each fault, and with 77 where there is no nvdisasm.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

# Kernels by name, with a load that the loop around the first matrix instructions must contain, its
# least number in a turn of the loop, all before the first of these instructions.
LOOPS = {
    'FewRowsKernel': ('LDG', 12),  # a turn: four groups of 16 bytes of two outputs and of x
    'ManyRowsKernel': ('LDGSTS', 1),  # of a group that is multiplied some turns later
    'TensorKernel': ('LDGSTS', 2),  # keys and values of the next tile
}
MATRIX = re.compile(r'\b[HIQ]MMA\b')
INSTRUCTION = re.compile(r'^\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;')
LABEL = re.compile(r'^(\.L_x_\d+):')
TARGET = re.compile(r'\bBRA(?:\.\w+)*\b.*`\((\.L_x_\d+)\)')


def nvdisasm():
    """Its path, or None."""
    told = os.environ.get('NVDISASM') or shutil.which('nvdisasm')
    if told:
        return told
    found = [path for folder in sys.path
             for path in glob.glob(os.path.join(folder, 'nvidia/*/bin/nvdisasm'))]
    return found[0] if found else None


def functions(listing):
    """(name, [instruction or label]) of each kernel."""
    name, lines = None, []
    for line in listing.splitlines():
        if line.startswith('.text.'):
            if name:
                yield name, lines
            name, lines = line[len('.text.'):].rstrip(':'), []
        elif label := LABEL.match(line):
            lines.append(label[1])
        elif instruction := INSTRUCTION.match(line):
            lines.append(instruction[1])
    if name:
        yield name, lines


def loops(lines):
    """[(first, last)] of the loops: from a label to a branch back to it."""
    places = {line: place for place, line in enumerate(lines) if line.startswith('.L_x_')}
    for place, line in enumerate(lines):
        target = TARGET.search(line)
        if target and places.get(target[1], place) < place:
            yield places[target[1]], place


def faults_of_loop(lines, load, least):
    """Why the loop that multiplies first is not as it should be; nothing where it is."""
    multiplies = [place for place, line in enumerate(lines) if MATRIX.search(line)]
    if not multiplies:
        return  # a type that this architecture does not have
    around = [(last - first, first, last) for first, last in loops(lines)
              if first < multiplies[0] < last]
    if not around:
        yield 'no loop holds the first matrix instruction'
        return
    loads = re.compile(rf'\b{load}\b')
    # The smallest loop that holds a load: inner loops run over data that has arrived.
    for _, first, last in sorted(around):
        begin = min(place for place in multiplies if first < place < last)
        before = sum(1 for line in lines[first:begin] if loads.search(line))
        after = sum(1 for line in lines[begin:last] if loads.search(line))
        if before + after == 0:
            continue
        if before < least or (load == 'LDG' and after > 0):
            yield f'{before} {load} before the first matrix instruction, {after} after'
        return
    yield f'no loop around the first matrix instruction has {load}'


def main():
    program = nvdisasm()
    if program is None:
        print('skipped: disassembly: no nvdisasm (pip install nvidia-cuda-nvdisasm)')
        return 77
    faults = []
    checked = dict.fromkeys(LOOPS, 0)
    for cubin in sys.argv[1:]:
        listing = subprocess.run([program, '-c', cubin], check=True, capture_output=True,
                                 text=True).stdout
        for name, lines in functions(listing):
            told = f'{os.path.basename(cubin)}: {name}'
            for kernel, (load, least) in LOOPS.items():
                if kernel not in name:
                    continue
                checked[kernel] += 1
                faults += [f'{told}: {why}' for why in faults_of_loop(lines, load, least)]
            faults += [f'{told}: {line}' for line in lines
                       if line.startswith('ATOMS') or ' ATOMS' in line
                       if re.search(r'ATOMS\S*(CAS|SPIN|\.64)', line)]
    faults += [f'no kernel is called {kernel}' for kernel, count in checked.items() if count == 0]
    print('\n'.join(faults) if faults else
          'disassembly: loops of ' + ', '.join(f'{count} {kernel}' for kernel, count in
                                               checked.items()) + '; no 64-bit sums in shared memory')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
