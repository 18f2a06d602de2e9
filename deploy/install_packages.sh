#!/usr/bin/env bash
# Installs the Debian packages that Strata needs and that are missing: to build and run it, and with
# --tests also what its tests use. As root or through sudo; else it names the packages and stops.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config
  libabsl-dev libcli11-dev libcpp-httplib-dev libgrpc++-dev libhwy-dev libpcre2-dev libprotobuf-dev
  libspdlog-dev libssl-dev libutf8proc-dev nlohmann-json3-dev prometheus-cpp-dev protobuf-compiler
  protobuf-compiler-grpc
)
if [[ "${1:-}" == --tests ]]; then
  packages+=(curl libbenchmark-dev libgtest-dev libgmock-dev openssl
    python3 python3-grpcio python3-protobuf)
fi

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

missing=()
for package in "${packages[@]}"; do
  installed "$package" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "packages: all ${#packages[@]} are installed"
  exit 0
fi

if [[ $EUID -eq 0 ]]; then
  as_root=()
elif command -v sudo >/dev/null && sudo -v; then
  as_root=(sudo)
else
  echo "packages: these are missing, install them as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "packages: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
