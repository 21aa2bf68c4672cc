#!/bin/sh
# Without clang-14 and llvm-spirv the plugin is built with the SPIR-V that is checked in, and works.
# Usage: ... SOURCE CONSORT-CTS; the test driver is in ZE_ENABLE_ALT_DRIVERS.
set -eu
source=$1
cts=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cmake -S "$source" -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS=-O1 \
  -DCONSORT_CLANG_SPIRV=OFF -DCONSORT_OPT_SPIRV=OFF -DCONSORT_LLVM_SPIRV=OFF >"$folder/log" 2>&1 ||
  { cat "$folder/log"; exit 1; }
ninja -C "$folder" consort_plugin_level_zero >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
made=$(find "$folder" -name '*.spv')
[ -z "$made" ] || { echo "SPIR-V was made all the same: $made"; exit 1; }
"$cts" "$folder/lib/consort/plugins/consort-level_zero.so" --quick --no-speed \
  --only 'matmul/q4_k,attention_paged/f16/preferred,rms_norm/f32'
