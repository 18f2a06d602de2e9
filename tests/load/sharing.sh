#!/usr/bin/env bash
# Measures the gain of cross-layer sharing under real traffic. The shape of SmolLM2-135M with random
# weights is served under four plans in one memory budget, each under the beginning of the Azure
# conversation trace, its lengths and times scaled to a small machine. Reports preemptions, goodput
# and latency. How many sequences run together before the first preemption depends on the order of
# requests, so each plan's cache is also filled by five orders of the trace.
#
#   tests/load/sharing.sh AzureLLMInferenceTrace_conv.csv OUT
#
# OUT gets a result for each plan and each fill, sharing.html (all side by side), sharing.md (the
# table) and sharing.svg. Takes some 20 minutes on two cores; needs build/bin and Python.
set -euo pipefail
trace=$1
out=$2
bin=$(cd "$(dirname "$0")/../.." && pwd)/build/bin
mkdir -p "$out"

# The budget holds 8,700 tokens of a plain cache. A step may hold many prompt tokens, so that memory
# limits the running sequences. In the plans with reuse 8 of 30 layers compute scores.
serve=(--shape smollm-135m --weights int8 --cache-bytes 192MiB --block-tokens 8 --prefix-cache off
  --max-batch-tokens 8192 --max-step-time 0s --max-running 4096 --max-queue 4096)
load=(--trace "$trace" --trace-speed 40 --length-scale 0.0625)
whole=(--requests 1800 --goodput e2el:45000)
fill=(--trace-shuffle --duration 30s --drain-timeout 0s)

server=
stop() {
  if [[ -n $server ]]; then
    kill -TERM "$server" 2>/dev/null && wait "$server" || true
    server=
  fi
}
trap stop EXIT

# run PLAN RESULT OPTION...: a server of its own, and one load.
run() {
  local plan=$1 result=$2 log=$out/$2.log grpc http
  shift 2
  : >"$log"
  "$bin/strata" serve "${serve[@]}" --cross-layer "$plan" --grpc-address 127.0.0.1:0 \
    --http-address 127.0.0.1:0 2>"$log" &
  server=$!
  until grep -q 'listening on' "$log"; do
    kill -0 "$server" || { cat "$log" >&2; exit 1; }
    sleep 0.2
  done
  grpc=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$log")
  http=$(sed -n 's/.*http at \([0-9.:]*\).*/\1/p' "$log")
  echo "$result: on $grpc" >&2
  "$bin/strata-loadtest" --server "$grpc" --metrics "$http" --label "$plan" "${load[@]}" "$@" \
    --json "$out/$result.json"
  stop
}

results=()
for plan in ${SHARING_PLANS:-plain svformer reuse svformer-reuse}; do
  for order in ${SHARING_ORDERS:-1 2 3 4 5}; do
    run "$plan" "$plan.fill.$order" "${fill[@]}" --seed "$order"
  done
  run "$plan" "$plan" "${whole[@]}" --csv "$out/$plan.csv"
  results+=("$plan=$out/$plan.json")
done
"$bin/strata-loadtest" --compare "${results[@]}" --html "$out/sharing.html"
python3 "$(dirname "$0")/sharing_plot.py" "$out"
