# Sourced by scripts that need a server; the server ends with the script. The script sets `script`,
# its name.
# start_server BIN ARGUMENT...: sets `grpc` and `http`, the addresses, and `server`, the process.
folder=$(mktemp -d)
server=
finish() {
  if [[ -n $server ]]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap finish EXIT
fail() {
  echo "$script: FAILED: $*"
  exit 1
}
start_server() {
  local bin=$1
  shift
  : >"$folder/log"
  "$bin/strata" serve "$@" --grpc-address 127.0.0.1:0 --http-address 127.0.0.1:0 2>"$folder/log" &
  server=$!
  until grep -q 'listening on' "$folder/log"; do
    kill -0 "$server" 2>/dev/null || { cat "$folder/log"; fail "the server did not start"; }
    sleep 0.1
  done
  grpc=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$folder/log")
  http=$(sed -n 's/.*http at \([0-9.:]*\).*/\1/p' "$folder/log")
}
stop_server() {
  kill -TERM "$server"
  wait "$server" || fail "exit status $? after SIGTERM"
  server=
}
