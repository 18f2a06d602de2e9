#!/usr/bin/env bash
# Is every test of a program run? ctest runs the tests of a file by a filter of GoogleTest's, and a
# filter that matches nothing passes.
#
#   suites_test.sh PROGRAM FILTER...          every test is in one filter, and no filter is empty
#   suites_test.sh --some PROGRAM FILTER...   every pattern of each filter matches a test
set -euo pipefail

tests_of() { # FILTER
  "$program" --gtest_list_tests --gtest_filter="$1" | awk '
    /^[^ ]+\.( |$)/ { suite = $1 }
    /^  / { print suite $1 }'
}

some=""
if [[ $1 == --some ]]; then
  some=yes
  shift
fi
program=$1
shift
wrong=0
seen=$(mktemp)
trap 'rm -f "$seen"' EXIT
for filter in "$@"; do
  patterns=("$filter")
  [[ -z $some ]] || IFS=: read -ra patterns <<<"$filter"
  for pattern in "${patterns[@]}"; do
    found=$(tests_of "$pattern")
    if [[ -z $found ]]; then
      echo "no test of $program is called '$pattern'"
      wrong=1
    else
      echo "$found" >>"$seen"
    fi
  done
done
echo "$(sort -u "$seen" | wc -l) tests by $# filters"
if [[ -z $some ]]; then
  while read -r count test; do  # once in the list of all, and once in a filter
    ((count == 2)) && continue
    echo "$test: $((count - 1)) of the filters run it, not one"
    wrong=1
  done < <({ tests_of '*' && cat "$seen"; } | sort | uniq -c)
fi
exit "$wrong"
