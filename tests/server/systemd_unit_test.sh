#!/usr/bin/env bash
# Has systemd check the unit of deploy/systemd: every line is understood, and the service's exposure
# stays small. Skips itself, with 77, if there is no systemd-analyze.
#
#   systemd_unit_test.sh BUILD/bin/strata
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/../.."

if ! command -v systemd-analyze >/dev/null; then
  echo "skipped: systemd-analyze is not installed"
  exit 77
fi
most_exposure=20  # tenths, of 100

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Uses the program where it is built, instead of the bundle's place.
sed "s|^ExecStart=/opt/strata/bin/strata|ExecStart=$binary|" deploy/systemd/strata.service \
  >"$folder/strata.service"
grep -qx "ExecStart=$binary serve" "$folder/strata.service"

said=$(systemd-analyze verify --man=no "$folder/strata.service" 2>&1 | grep strata.service || true)
if [[ -n $said ]]; then
  echo "$said"
  exit 1
fi
systemd-analyze security --offline=true --threshold="$most_exposure" --no-pager \
  "$folder/strata.service" | tail -n 1

# Every variable that the unit sets is an option.
"$binary" serve --help >"$folder/help"
sed -n 's/^Environment=\(STRATA_[A-Z_]*\)=.*/\1/p' deploy/systemd/strata.service |
  while read -r variable; do grep -q "$variable" "$folder/help"; done
