#!/bin/sh
# Intel's compiler turns every module into code of real chips. Usage: ... CHECKED_IN; OCLOC names it.
set -eu
ocloc=${OCLOC:-ocloc}
command -v "$ocloc" >/dev/null || {
  echo "skipped: no ocloc (Debian: intel-opencl-icd)"
  exit 77
}
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
