#!/usr/bin/env bash
# Prints registers, shared memory, stack and spills of every kernel, as ptxas reports them, and
# checks the machine code (disassembly.py, if there is an nvdisasm). Needs nvcc and no device. Exits
# with 1 if a kernel spills or its code fails the checks.
#
#   tests/gpu/resources.sh [ARCHITECTURE...]     90a 80: Hopper, Ampere
set -euo pipefail
cd "$(dirname "$0")/../.."
architectures=("$@")
((${#architectures[@]} > 0)) || architectures=(90a 80)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for architecture in "${architectures[@]}"; do
  echo "== sm_$architecture"
  mkdir "$folder/$architecture"
  for source in kernels/cuda/*.cu; do
    nvcc -std=c++20 --expt-relaxed-constexpr -fmad=false -I. -O3 -Xptxas -v -cubin \
      -gencode "arch=compute_$architecture,code=sm_$architecture" "$source" \
      -o "$folder/$architecture/$(basename "$source" .cu).cubin" 2>&1
  done | c++filt | awk '
    /Function properties for|Compiling entry function/ {
      if (match($0, /[A-Za-z0-9]+Kernel[^ (]*(<[^(]*>)?/)) name = substr($0, RSTART, RLENGTH)
    }
    /stack frame/ { stack = $1; spill = $5 + $9 }
    /Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/)
      registers = substr($0, RSTART + 5, RLENGTH - 5)
      printf "%-62s %4d registers  %4d bytes of stack  %4d of spills\n", name, registers, stack, spill
      if (spill > 0) spilled = spilled " " name
    }
    END {
      if (spilled != "") { print "spills:" spilled; exit 1 }
    }'
  tests/gpu/disassembly.py "$folder/$architecture"/*.cubin || (($? == 77))
done
