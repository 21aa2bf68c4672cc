#!/bin/sh
# Runs the gpu kernels under oclgrind on small shapes: opencl_oclgrind.sh PLUGIN_FOLDER TEST...
# A race, a barrier that not all items reach, a read of something never written or an access out of
# bounds is a line in the log, and any line fails. PLUGIN_FOLDER holds the plugin with the inline
# queue. Optimization is off because oclgrind does not know every instruction that it leads to.
# The cpu kernels have no groups that could race, and oclgrind takes float16 halves for unset.
icd=$(find /usr/lib /usr/local/lib -name liboclgrind-rt-icd.so 2>/dev/null | head -n 1)
if [ -z "$icd" ]; then
  echo "skipped: oclgrind is not installed"
  exit 77
fi
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
echo "$icd" > "$folder/oclgrind.icd"
export OCL_ICD_VENDORS="$folder" XDG_CACHE_HOME="$folder/cache" OCLGRIND_LOG="$folder/log"
export OCLGRIND_DATA_RACES=1 OCLGRIND_UNINITIALIZED=1 OCLGRIND_BUILD_OPTIONS=-cl-opt-disable
export CONSORT_TEST_PLUGINS="$1" CONSORT_TEST_SMALL=1 CONSORT_TEST_FILTER='*gpu*'
shift
for test in "$@"; do
  "$test" || exit 1
  if [ -s "$folder/log" ]; then
    cat "$folder/log"
    exit 1
  fi
done
