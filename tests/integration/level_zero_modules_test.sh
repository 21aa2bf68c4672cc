#!/bin/sh
# The SPIR-V that the build made is what is checked in, and valid. Usage: ... BUILT CHECKED_IN
set -eu
built=$1
checked_in=$2
ls "$built"/*.spv >/dev/null 2>&1 || {
  echo "skipped: clang-14, opt-14 or llvm-spirv-14 is missing, the checked-in SPIR-V was built in"
  exit 77
}
status=0
for file in "$checked_in"/*.spv "$built"/*.spv; do
  name=$(basename "$file")
  cmp "$built/$name" "$checked_in/$name" || {
    echo "$name differs: build the target clc_spirv_update and commit"
    status=1
  }
done
if command -v spirv-val >/dev/null; then
  for file in "$checked_in"/*.spv; do
    spirv-val --target-env opencl2.2 "$file" || status=1
  done
fi
exit $status
