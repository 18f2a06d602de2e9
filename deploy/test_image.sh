#!/usr/bin/env bash
# Builds deploy/Dockerfile and runs the image: no Docker, no registry, nothing but Debian's
# packages. The base image is made by debootstrap from the mirror that this machine's apt uses.
#
#   deploy/test_image.sh [WORK]     as root on Debian 12; some ten minutes on two cores, 6 GB of disk
#
# With WORK, a folder, everything is kept there: the storage for buildah --root WORK/storage, and the
# base for the next time. The image's size and the time from start to ready are printed.
set -euo pipefail
cd "$(dirname "$0")/.."

most_bytes=$((150 * 1000 * 1000))
base=localhost/strata-test-base
image=localhost/strata-test
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot

say() { echo "image: $*"; }
fail() {
  echo "image: FAILED: $*" >&2
  exit 1
}
[[ $EUID -eq 0 ]] || fail "needs root"
deploy/install_packages.sh --image

work=${1:-}
[[ -n $work ]] || work=$(mktemp -d)
work=$(realpath -m "$work")
mkdir -p "$work"
server=
box() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }
finish() {
  if [[ -n $server ]]; then kill -KILL "$server" 2>/dev/null || true; fi
  box rm --all >/dev/null 2>&1 || true
  [[ -n ${1:-} ]] || rm -rf "$work"
}
# shellcheck disable=SC2064
trap "finish '${1:-}'" EXIT

make_base() {
  local sources container root
  # "URI suite component", a line for each that apt knows of this release of Debian.
  # shellcheck disable=SC2016
  sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Origin: Debian' | grep -E ' bookworm(-security|-updates)? ' | sort -u)
  [[ -n $sources ]] || fail "apt on this machine knows no mirror of bookworm"
  container=$(box from scratch)
  root=$(box mount "$container")
  debootstrap --variant=minbase bookworm "$root" \
    "$(awk '$2 == "bookworm" {print $1; exit}' <<<"$sources")" >"$work/debootstrap.log" ||
    fail "debootstrap, see $work/debootstrap.log"
  awk '{print "deb", $0}' <<<"$sources" >"$root/etc/apt/sources.list"
  apt-config dump | grep -iE '^Acquire::https?::Proxy' >"$root/etc/apt/apt.conf.d/proxy" || true
  box umount "$container" >/dev/null
  box config --cmd /bin/bash "$container"
  box commit --quiet --rm "$container" "$base" >/dev/null
}

if ! box inspect --type image "$base" >/dev/null 2>&1; then
  say "making the base image, by debootstrap"
  make_base
fi

began=$SECONDS
say "building deploy/Dockerfile, the log is $work/build.log"
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# HEALTHCHECK is Docker's; OCI's own format has no place for it.
box bud --pull-never --format docker --build-arg "BASE=$base" --build-arg "REVISION=$revision" \
  -f deploy/Dockerfile -t "$image" . >"$work/build.log" 2>&1 ||
  { tail -n 40 "$work/build.log" >&2 && fail "the build"; }
say "built in $((SECONDS - began)) s"

# expect WHAT VALUE FORMAT: a field of the image's configuration.
expect() {
  local seen
  seen=$(box inspect --type image --format "$3" "$image")
  [[ $seen == "$2" ]] || fail "$1 is '$seen', not '$2'"
}
expect user 65532:65532 '{{.Docker.Config.User}}'
expect 'entry point' '[/usr/bin/strata] [serve]' '{{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}}'
expect health '[CMD /usr/bin/strata health]' '{{.Docker.Config.Healthcheck.Test}}'
expect volumes 'map[/models:{}]' '{{.Docker.Config.Volumes}}'
expect revision "$revision" '{{index .Docker.Config.Labels "org.opencontainers.image.revision"}}'
expect licence Apache-2.0 '{{index .Docker.Config.Labels "org.opencontainers.image.licenses"}}'

container=$(box from --pull-never "$image")
root=$(box mount "$container")
bytes=$(du -sb "$root" | cut -f1)
say "$bytes bytes in $(find "$root" -type f | wc -l) files, at most $most_bytes"
((bytes <= most_bytes)) || fail "the image is too large"
[[ ! -e $root/bin/sh && ! -e $root/usr/bin/sh ]] || fail "there is a shell in the image"

# Runs like buildah itself: the image's own user and variables.
box run "$container" -- /usr/bin/strata --version
box run "$container" -- /usr/bin/strata plan >/dev/null

# The container: process 1 of its own process and mount namespaces, the root read-only, the image's
# user, no capability and no way to one. The network is the machine's, on ports of our own.
# Ports are outside the range from which the system assigns ports to connections.
export STRATA_SERVER=127.0.0.1:18051 STRATA_GRPC_ADDRESS=127.0.0.1:18051
export STRATA_HTTP_ADDRESS=127.0.0.1:18080
url=http://$STRATA_HTTP_ADDRESS
mkdir -p "$root"/{proc,dev}
# $0: the root; $@: the command to run there.
# shellcheck disable=SC2016
enter='mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
  mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" &&
  exec setpriv --no-new-privs --bounding-set -all,+setuid,+setgid,+sys_chroot \
    chroot --userspec=65532:65532 "$0" "$@"'
inside() {
  exec unshare --mount --pid --ipc --uts --fork --kill-child bash -c "$enter" "$root" /usr/bin/strata "$@"
}
ready() { curl -sf -o "$work/ready" "$url/readyz" && [[ $(<"$work/ready") == ready ]]; }
serve() { # LOG; the variables hold the options
  local start
  start=$(date +%s%N)
  (inside serve) >"$1" 2>&1 &
  server=$!
  until ready; do
    kill -0 "$server" 2>/dev/null || { cat "$1" >&2 && fail "the container ended"; }
    (($(date +%s%N) - start < 60000000000)) || fail "not ready in a minute"
    sleep 0.005
  done
  say "ready in $((($(date +%s%N) - start) / 1000000)) ms: $2"
}
# The signal goes to process 1 of the container, as from docker stop.
terminate() { kill -TERM "$(pgrep -P "$server")"; }
metric() { curl -sf "$url/metrics" | awk -v name="$1" '$1 == name {print $2}'; }

serve "$work/serve.log" "the default model"
(inside health) || fail "strata health"
pid=$(pgrep -P "$server")
[[ $(awk '/^Uid/ {print $2}' "/proc/$pid/status") == 65532 ]] || fail "it runs as another user"
[[ $(awk '/^CapEff/ {print $2}' "/proc/$pid/status") == 0000000000000000 ]] || fail "it has capabilities"
(inside generate --prompt 'Once upon a time' --max-tokens 40 --temperature 0) >"$work/text" ||
  fail "strata generate"
[[ $(wc -c <"$work/text") -gt 40 ]] || fail "it wrote $(<"$work/text")"
[[ $(metric strata_generated_tokens_total) == 40 ]] || fail "the metrics do not count 40 tokens"
[[ $(metric vllm:num_requests_running) == 0 ]] || fail "something still runs"
# First requests of clients of OpenAI's API and of evaluation harnesses.
asks() { # PATH JSON WORD...: the answer has all of the words
  local path=$1 json=$2 word
  shift 2
  curl -sf "$url$path" -H 'Content-Type: application/json' -d "$json" >"$work/http" ||
    fail "POST $path was refused"
  for word in "$@"; do
    grep -qF -- "$word" "$work/http" || fail "POST $path answers without $word: $(<"$work/http")"
  done
}
curl -sf "$url/health" >"$work/http" || fail "GET /health"
curl -sf "$url/v1/models" | grep -q '"id":"svformer"' || fail "GET /v1/models"
asks /tokenize '{"prompt":"Once upon a time"}' '"tokens":[' '"count":'
asks /v1/completions '{"prompt":["Once upon","a time"],"max_tokens":2,"temperature":0}' '"index":1'
asks /v1/completions '{"prompt":"Once","max_tokens":1,"echo":true,"logprobs":1,"return_token_ids":true,
  "allowed_token_ids":[5,6],"bad_words":["x"]}' '"token_logprobs":[null,' '"token_ids":['
code=$(curl -s -o "$work/http" -w '%{http_code}' "$url/v1/completions" -d '{"prompt":"a","tools":[1]}')
[[ $code == 400 ]] && grep -q '"param":"tools"' "$work/http" || fail "tools: $code, $(<"$work/http")"
terminate
wait "$server" || fail "it exited with $?, see $work/serve.log"
say "generate, health, metrics and OpenAI's API answer; idle, it stops at once"

# A request that takes seconds, so that the drain has something to wait for.
STRATA_SHAPE=smollm-135m STRATA_WEIGHTS=int8 serve "$work/drain.log" "a shape of 135 M parameters"
(inside generate --prompt 'Once upon a time' --max-tokens 300 --ignore-eos --json) >"$work/answer" &
client=$!
until [[ $(metric vllm:num_requests_running) == 1 ]]; do
  kill -0 "$client" 2>/dev/null || fail "the request ended before it ran: $(<"$work/answer")"
  sleep 0.02
done
terminate
sleep 0.3
if ready; then fail "it says ready while it drains"; fi
if (inside health) 2>/dev/null; then fail "health says SERVING while it drains"; fi
if (inside generate --prompt x --max-tokens 1) 2>"$work/refused"; then
  fail "it took a request while it drained"
fi
kill -0 "$client" || fail "the request had ended before it was looked at"
wait "$client" || fail "the request was cut off by SIGTERM"
grep -q '"generated_tokens": *300\b' "$work/answer" ||
  fail "the request ended without all of its 300 tokens: $(<"$work/answer")"
wait "$server" || fail "it exited with $? after the drain, see $work/drain.log"
server=
say "SIGTERM: no new requests ($(<"$work/refused")), the one that ran got all its tokens, exit 0"

# A volume with nothing in it is refused in words.
if (STRATA_MODEL=/models inside serve) 2>"$work/empty"; then fail "it served an empty volume"; fi
say "an empty volume: $(tail -n 1 "$work/empty")"
say "green"
