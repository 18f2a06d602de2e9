#!/usr/bin/env bash
# Has CMake configure what deploy/quickstart.sh builds without what the tests need: a machine on which
# it runs for the first time has deploy/install_packages.sh's own packages and no more.
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
# What the README says is in build/bin after it.
ninja -C "$folder" -t targets all >"$folder/targets"
grep -q '^bin/strata: ' "$folder/targets"
grep -q '^bin/strata-loadtest: ' "$folder/targets"
