#!/usr/bin/env bash
# From a bare Debian 12 machine to text on the screen: installs missing packages, builds, serves the
# default model, streams one completion of the prompt through gRPC, prints the request's metrics and
# stops the server. May be run again and again.
#
#   ./deploy/quickstart.sh ["a prompt"]
set -euo pipefail
cd "$(dirname "$0")/.."
prompt=${1:-Once upon a time}

./deploy/install_packages.sh

mkdir -p build
echo "build: the programs of build/bin (the log is build/quickstart.log)"
# Tests need packages that are not installed here. Parts that an earlier run left out are tried
# again.
options=(-DCMAKE_BUILD_TYPE=Release -DSTRATA_TESTS=OFF -DSTRATA_SERVER=ON -DSTRATA_CUDA=ON)
if ! { cmake -S . -B build -G Ninja "${options[@]}" && cmake --build build; } \
  >build/quickstart.log 2>&1; then
  tail -n 40 build/quickstart.log >&2
  echo "build: failed" >&2
  exit 1
fi

server_log=$(mktemp)
build/bin/strata serve --grpc-address 127.0.0.1:0 --http-address "" >"$server_log" 2>&1 &
server=$!
stop() {
  kill -TERM "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
  rm -f "$server_log"
}
trap stop EXIT

address=
for _ in $(seq 300); do
  address=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$server_log" | head -n 1)
  [[ -n $address ]] && break
  if ! kill -0 "$server" 2>/dev/null; then break; fi
  sleep 0.1
done
if [[ -z $address ]]; then
  cat "$server_log" >&2
  echo "serve: the server did not come up" >&2
  exit 1
fi
echo "serve: the default model on $address"
echo
build/bin/strata generate --server "$address" --prompt "$prompt" \
  --max-tokens 200 --temperature 0.7 --metrics
echo
echo "serve: stopping"
