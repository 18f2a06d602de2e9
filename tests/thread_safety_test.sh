#!/usr/bin/env bash
# Has clang check the locks (engine/base/mutex.h) of every file that takes one: a guarded member used
# without its mutex is an error. Skips itself, with 77, if there is no clang++.
#
#   thread_safety_test.sh DIR...     folders of generated headers
set -euo pipefail
cd "$(dirname "$0")/.."

clang=$(command -v clang++ || true)
if [[ -z $clang ]]; then
  echo "skipped: clang++ is not installed"
  exit 77
fi
check=("$clang" -x c++ -std=c++20 -fsyntax-only -Wno-everything -Wthread-safety -Werror=thread-safety -pthread -I.)
check+=(-DSTRATA_SOURCE_DIR='""' -DSTRATA_BINARY_DIR='""' -DSTRATA_VERSION='""')
# The options of cpp-httplib's targets turn its TLS on.
read -ra httplib < <(pkg-config --cflags cpp-httplib)
check+=("${httplib[@]}")
for folder in "$@"; do check+=(-I "$folder"); done

# Does this clang see it at all? Everything but the unlocked line is right.
example() {
  echo '#include "engine/base/mutex.h"
    class Counter {
     public:
      void Add() { const strata::MutexLock lock(mutex_); ++count_; Added(); }
      void Added() STRATA_REQUIRES(mutex_) { while (count_ == 0) changed_.Wait(mutex_); }
      void Wrong() { '"$1"' }
     private:
      strata::Mutex mutex_;
      strata::CondVar changed_;
      int count_ STRATA_GUARDED_BY(mutex_) = 0;
    };'
}
example '' | "${check[@]}" -
for wrong in '++count_;' 'Added();' 'mutex_.Lock();'; do
  if example "$wrong" | "${check[@]}" - 2>/dev/null; then
    echo "$clang accepts: $wrong"
    exit 1
  fi
done

# As one source: most of the time goes into common headers.
mapfile -t files < <(grep -rlE '\b(MutexLock|CondVar)\b' --include='*.cpp' --include='*.h' engine server tests)
printf '#include "%s"\n' "${files[@]}" | "${check[@]}" -
echo "${#files[@]} files checked"
