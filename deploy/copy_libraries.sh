#!/usr/bin/env bash
# Copies the shared libraries that programs need into an image's root, and the copyright notices of
# the packages that they come from. For the Dockerfiles: it asks dpkg.
#
#   deploy/copy_libraries.sh [--glibc] ROOT DIR PROGRAM...   to ROOT/DIR; --glibc: and the loader
set -euo pipefail

with_glibc=false
if [[ $1 == --glibc ]]; then
  with_glibc=true
  shift
fi
root=$1
folder=$root/$2
shift 2
mkdir -p "$folder"

needed=$(ldd "$@")
if grep 'not found' <<<"$needed" >&2; then
  exit 1
fi
awk '$2 == "=>" && $3 ~ /^\// {print $3}' <<<"$needed" | sort -u | while read -r library; do
  name=$(basename "$library")
  case $name in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.*)
      $with_glibc || continue
      ;;
  esac
  cp -L "$library" "$folder/"
  package=$(dpkg-query -S "*/$name" | awk -F: 'NR == 1 {print $1}')
  mkdir -p "$root/usr/share/doc/$package"
  cp -L "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/"
done
if $with_glibc; then
  cp -L --parents /lib64/ld-linux-x86-64.so.2 "$root"
fi
