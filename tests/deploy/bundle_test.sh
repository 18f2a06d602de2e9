#!/usr/bin/env bash
# A bundle of the programs alone, as of a build without nvcc: it can be made, and it runs.
#
#   bundle_test.sh BUILD/bin/strata BUILD/bin/strata-loadtest
set -euo pipefail
programs=("$(realpath "$1")" "$(realpath "$2")")
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin"
ln -s "${programs[@]}" "$folder/bin/"
deploy/bundle.sh "$folder" "$folder/bundle.tar.gz" | tee "$folder/said"
grep -q 'left out.* libstrata_cuda.so' "$folder/said"

tar -C "$folder" -xf "$folder/bundle.tar.gz"
cd "$folder/strata-bundle"
bin/strata plan --model deploy/models/svformer >/dev/null
bin/strata-loadtest --help >/dev/null
[[ -f deploy/systemd/strata.service ]]
