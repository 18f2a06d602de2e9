#!/usr/bin/env bash
# Makes a tarball that runs on any x86-64 machine with glibc 2.36 or newer: the programs, their
# shared libraries other than the system's and CUDA's, the models that ship, a systemd unit and, if
# built, the CUDA module and the files of tests/gpu/run.sh. Nothing is compiled or downloaded on
# that machine.
#
#   ./deploy/bundle.sh [BUILD_DIR [TARBALL]]     build, strata-bundle.tar.gz
#
# There: tar xf strata-bundle.tar.gz && strata-bundle/bin/strata serve --model strata-bundle/deploy/models/svformer
# On a GPU: strata-bundle/tests/gpu/run.sh --phase tests
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build}
tarball=$(realpath -m "${2:-strata-bundle.tar.gz}")
programs=(strata strata-loadtest)
most_bytes=$((60 * 1000 * 1000))

for program in "${programs[@]}"; do
  if [[ ! -e $build/bin/$program ]]; then
    echo "bundle: no $build/bin/$program: build first" >&2
    exit 1
  fi
done
left_out=()
for program in libstrata_cuda.so libstrata_cuda_ceilings.so cuda_gpu_tests strata-cudaprobe \
  strata-enginebench strata-devicebench; do
  if [[ -e $build/bin/$program ]]; then programs+=("$program"); else left_out+=("$program"); fi
done
if [[ ${#left_out[@]} -gt 0 ]]; then
  echo "bundle: left out, as they are not in $build/bin: ${left_out[*]}"
fi

if [[ -e $build/bin/libstrata_cuda.so ]]; then
  echo "bundle: code for compute capabilities" \
    "$(sed -n 's/^CMAKE_CUDA_ARCHITECTURES:[A-Z]*=//p' "$build/CMakeCache.txt")"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/strata-bundle
mkdir -p "$root"/{bin,lib,deploy,tests/gpu}

for program in "${programs[@]}"; do
  strip -o "$root/bin/$program" "$build/bin/$program"
  chmod +x "$root/bin/$program"
done
# Copies the programs' libraries except those of every such machine and of CUDA.
ldd "${programs[@]/#/$build/bin/}" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  while read -r library; do
    case $(basename "$library") in
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.*) ;;
      ld-linux* | libcuda.so.* | libcublas* | libcudart* | libnv*) ;;
      *) cp -L "$library" "$root/lib/" ;;
    esac
  done
cp -r deploy/models deploy/systemd "$root/deploy/"
cp -r tests/golden "$root/tests/"
cp tests/gpu/{run,server,soak,served}.sh tests/gpu/peers.py tests/gpu/RESULTS.md "$root/tests/gpu/"
cp LICENSE "$root/"
cp --parents README.md {server,engine,kvcache,kernels,kernels/cpu,kernels/cuda,deploy,tests/*}/*.md "$root/"
git rev-parse HEAD >"$root/COMMIT" 2>/dev/null || echo unknown >"$root/COMMIT"

tar -C "$folder" -czf "$tarball" strata-bundle
bytes=$(stat -c %s "$tarball")
echo "bundle: $tarball, $bytes bytes"
if ((bytes > most_bytes)); then
  echo "bundle: more than $most_bytes bytes" >&2
  exit 1
fi
