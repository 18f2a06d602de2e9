#!/usr/bin/env bash
# Installs the Debian packages that are missing, as root or through sudo; otherwise names them and
# stops.
#
#   deploy/install_packages.sh             packages for building and running Strata
#   deploy/install_packages.sh --tests     these and packages for tests/run.sh
#   deploy/install_packages.sh --deploy    packages for tests of deploy/ that are skipped without
#   them
#   deploy/install_packages.sh --image     packages for deploy/test_image.sh: it builds in a
#   container
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config
  libabsl-dev libcli11-dev libcpp-httplib-dev libgrpc++-dev libhwy-dev libpcre2-dev libprotobuf-dev
  libspdlog-dev libssl-dev libutf8proc-dev nlohmann-json3-dev prometheus-cpp-dev protobuf-compiler
  protobuf-compiler-grpc
)
case "${1:-}" in
  "") ;;
  --tests)
    packages+=(curl haproxy iproute2 libbenchmark-dev libgtest-dev libgmock-dev openssl
      python3 python3-grpcio python3-numpy python3-protobuf python3-yaml)
    ;;
  --deploy) packages=(haproxy iproute2 prometheus python3 python3-yaml) ;;
  --image) packages=(buildah curl debootstrap golang-github-containers-common procps) ;;
  *) echo "packages: unknown argument $1" >&2 && exit 2 ;;
esac

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
