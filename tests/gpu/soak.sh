#!/usr/bin/env bash
# A server on a device under random load over gRPC: cancelled requests, sampling and penalties
# mixed, shared prefixes, and a cache so small that sequences are preempted, unless the last
# arguments change it. No request may fail, all blocks are free afterwards, and the server drains
# with exit status 0.
#
#   tests/gpu/soak.sh BIN MODEL [DEVICE [SECONDS [CACHE_OPTION VALUE]]]     cuda, 30; cpu as well
set -euo pipefail
script=soak
source "$(dirname "$0")/server.sh"
bin=$1
model=$2
device=${3:-cuda}
seconds=${4:-30}
cache=("${@:5}")
small=false
if [[ ${#cache[@]} -eq 0 ]]; then
  cache=(--cache-bytes 2MiB)
  small=true
fi
# The value of a series of the server's metrics.
metric() {
  exec 3<>"/dev/tcp/127.0.0.1/${http##*:}"
  printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
  awk -v "name=$1" '$1 == name {print $2}' <&3
  exec 3>&-
}

start_server "$bin" --model "$model" --device "$device" "${cache[@]}" --max-running 64

# Few penalties: while a sequence with penalties runs, no step starts before the last one's tokens
# are known.
"$bin/strata-loadtest" --server "$grpc" --metrics "$http" --users 64 --duration "${seconds}s" \
  --prefix-groups 8 --prefix-tokens 48 --input-tokens uniform:1:96 --output-tokens uniform:1:128 \
  --cancel-share 0.1 --mix 0.5:temperature=0 --mix 0.48:top_p=0.9 \
  --mix 0.02:frequency_penalty=0.5 >"$folder/report" || { cat "$folder/report"; fail "the load"; }
grep '^requests:' "$folder/report"
grep -q ' 0 failed ' "$folder/report" || fail "requests failed"
preemptions=$(metric strata_preemptions_total)
$small && [[ $preemptions -eq 0 ]] && fail "nothing was preempted"
used=$(metric 'strata_cache_blocks{state="used"}')
[[ $used -eq 0 ]] || fail "$used blocks are still held"
stop_server
echo "soak: $(basename "$model") on $device, ${cache[*]}: $preemptions preemptions, no block held, drained"
