#!/usr/bin/env bash
# A bundle of the programs alone, as from a build without nvcc, can be made and runs.
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
# All libraries in it are used, also by its libraries in turn, and none from outside is needed.
env -u LD_LIBRARY_PATH ldd bin/* | awk '$2 == "=>" {print $3}' | sort -u >"$folder/used"
for library in lib/*; do grep -qFx "$PWD/bin/../$library" "$folder/used"; done
[[ -f deploy/systemd/strata.service ]]
