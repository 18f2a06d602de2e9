#!/usr/bin/env bash
# Has CMake configure the build of deploy/quickstart.sh without the packages of the tests: at its
# first run a machine has only deploy/install_packages.sh's own packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

read -ra options < <(sed -n 's/^options=(\(.*\))$/\1/p' deploy/quickstart.sh)
[[ ${#options[@]} -gt 0 ]]
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! cmake -S . -B "$folder" -G Ninja "${options[@]}" -DSTRATA_CUDA=OFF \
  -DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON -DCMAKE_DISABLE_FIND_PACKAGE_benchmark=ON \
  >"$folder/log" 2>&1; then
  cat "$folder/log"
  exit 1
fi
# The programs that the README promises in build/bin.
ninja -C "$folder" -t targets all >"$folder/targets"
grep -q '^bin/strata: ' "$folder/targets"
grep -q '^bin/strata-loadtest: ' "$folder/targets"
