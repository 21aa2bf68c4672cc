#!/bin/sh
# Intel's compiler turns every module into code of real chips. Usage: ... CHECKED_IN SOURCE.
# It is named by OCLOC, or where scripts/deps --full unpacks it, or installed.
set -eu
unpacked=$2/build/intel/usr/bin/ocloc
[ -x "$unpacked" ] || unpacked=ocloc
ocloc=$(command -v "${OCLOC:-$unpacked}") || {
  echo "skipped: no ocloc (scripts/deps --full, or Debian's intel-opencl-icd)"
  exit 77
}
libraries=$(dirname "$ocloc")/../lib/x86_64-linux-gnu
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for device in skl dg2 pvc; do
  for file in "$1"/*_gpu.spv; do
    name=$(basename "$file" .spv)
    "$ocloc" compile -spirv_input -file "$file" -device $device -output "$name" \
      -out_dir "$folder/$device" >"$folder/log" 2>&1 || {
      echo "$name for $device:"
      cat "$folder/log"
      exit 1
    }
  done
  echo "$device: $(ls "$folder/$device"/*.bin | wc -l) modules"
done
