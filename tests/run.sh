#!/usr/bin/env bash
# Installs missing packages, builds everything and runs every test: a release build with the whole
# suite, then the core (kernels, kvcache, engine, parsers) under AddressSanitizer and UBSan. May be
# run again and again.
#
#   ./tests/run.sh                       continuous integration's run
#   ./tests/run.sh --fast                builds, then runs the tests that take seconds: at every save
#   ./tests/run.sh --sanitize            the whole suite under ASan + UBSan, the core under TSan: by hand
#   ./tests/run.sh -DSTRATA_CUDA=OFF     a CMake option: this one leaves out CUDA and its emulation
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$(nproc)
mode="test"
case ${1:-} in
  --sanitize | --fast) mode=${1#--} && shift ;;
  --*) echo "run.sh: unknown argument $1" >&2 && exit 2 ;;
esac
[[ $mode == fast ]] || ./deploy/install_packages.sh --tests
options=("$@")
# CMake remembers options: options of an earlier run, and of deploy/quickstart.sh, are taken back.
defaults=(-DSTRATA_TESTS=ON -DSTRATA_SERVER=ON -DSTRATA_CUDA=ON -DSTRATA_FUZZ=OFF -DSTRATA_SANITIZE=)

# A skipped test has passed nothing: skipped tests and their reasons come last.
tested=()
say_skipped() {
  local dir
  for dir in "${tested[@]}"; do
    # A reason is a line that says so, or GoogleTest's line after "FILE:LINE: Skipped".
    awk -v "dir=$dir" '
      /^[0-9]+\/[0-9]+ Test: / { test = $3 }
      /: Skipped$/ { getline; $0 = "skipped: " $0 }
      sub(/^skipped: /, "") && !said[test $0]++ { print "== " dir ": skipped: " test ": " $0 }
    ' "$dir/Testing/Temporary/LastTest.log" || true
  done
}
trap say_skipped EXIT

# build_and_test DIR LABEL CMAKE_OPTION...
build_and_test() {
  local dir=$1 label=$2
  shift 2
  echo "== $label: building in $dir"
  mkdir -p "$dir"
  if ! { cmake -S . -B "$dir" -G Ninja "${defaults[@]}" "$@" "${options[@]}" &&
    cmake --build "$dir" -j "$jobs"; } >"$dir/build.log" 2>&1; then
    tail -n 60 "$dir/build.log"
    echo "== $label: the build failed, the whole log is $dir/build.log"
    exit 1
  fi
  echo "== $label: testing"
  tested+=("$dir")
  ctest --test-dir "$dir" --output-on-failure --no-tests=error -j "$jobs" -E "${left_out:-^$}" \
    -L "${only_label:-.}"
}

# Little optimisation and line tables only: the code of the sanitizers is slow to compile.
sanitized=(-DCMAKE_BUILD_TYPE=None "-DCMAKE_CXX_FLAGS=-Og -g1")
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
if [[ $mode == sanitize ]]; then
  build_and_test build-asan "whole suite, ASan + UBSan" \
    "${sanitized[@]}" -DSTRATA_SANITIZE=address,undefined
  # Tests that compare the numbers of one thread with an oracle would take an hour.
  left_out='^fuzz/|^kernels/(attention|matmul|stored_scores)|^engine/(plans_vs_naive|golden|sampl)'
  build_and_test build-tsan "core, TSan" \
    "${sanitized[@]}" -DSTRATA_SANITIZE=thread -DSTRATA_SERVER=OFF
elif [[ $mode == fast ]]; then
  only_label=fast
  build_and_test build "release" -DCMAKE_BUILD_TYPE=Release
else
  build_and_test build "release" -DCMAKE_BUILD_TYPE=Release
  build_and_test build-core-asan "core, ASan + UBSan" \
    "${sanitized[@]}" -DSTRATA_SANITIZE=address,undefined -DSTRATA_SERVER=OFF
fi
