#!/usr/bin/env bash
# A server on a device under a load of 64 users for 20 seconds over gRPC, prompts of 512 tokens and
# answers of 128: prints tokens a second and the users' waiting times.
#
#   tests/gpu/served.sh BIN SERVE_ARGUMENT... -- LOAD_ARGUMENT...
#
# DEVICE=cpu, USERS and DURATION are for trying it elsewhere.
set -euo pipefail
script=served
source "$(dirname "$0")/server.sh"
bin=$1
shift
serve=()
while [[ $1 != -- ]]; do serve+=("$1") && shift; done
shift
cache=(--memory-share 0.8)
[[ ${DEVICE:-cuda} == cpu ]] && cache=(--cache-bytes 256MiB)

start_server "$bin" --device "${DEVICE:-cuda}" "${cache[@]}" "${serve[@]}"
cat "$folder/log"
"$bin/strata-loadtest" --server "$grpc" --metrics "$http" --users "${USERS:-64}" --warm-up 2s \
  --duration "${DURATION:-20s}" --input-tokens 512 --output-tokens 128 "$@" >"$folder/report" ||
  { cat "$folder/report"; fail "the load"; }
cat "$folder/report"
stop_server
grep -m 1 -i 'output tokens\|tokens/s' "$folder/report" || true
