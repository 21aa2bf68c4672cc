#!/bin/sh
# Installs into a fresh prefix, builds docs/examples against it with CMake and with pkg-config, and
# runs them. The prefix is moved before it is used: nothing may remember where it was installed.
#
#   cli_examples_test.sh BUILD_FOLDER
set -eu

build=$1
source=$CONSORT_TEST_SOURCE
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export XDG_CACHE_HOME="$folder/cache"

model=
for candidate in "$source"/models/demo/*.gguf "${CONSORT_TEST_DATA:-/nonexistent}/models/stories260K.gguf"; do
  if [ -f "$candidate" ]; then
    model=$candidate
    break
  fi
done
if [ -z "$model" ]; then
  echo "skipped: no model (set CONSORT_TEST_DATA)"
  exit 77
fi

cmake --install "$build" --prefix "$folder/installed" >"$folder/install.log"
mv "$folder/installed" "$folder/prefix"
prefix=$folder/prefix

echo "the installed program"
"$prefix/bin/consort" --version
"$prefix/bin/consort" devices
device=$("$prefix/bin/consort" devices --json | sed -n 's/^ *"name": "\([a-z0-9_-]*:0\)",*$/\1/p' | head -n 1)
if [ -z "$device" ]; then
  echo "skipped: no device"
  exit 77
fi

echo "with CMake"
cp -r "$source/docs/examples" "$folder/examples"
cmake -S "$folder/examples" -B "$folder/build" -DCMAKE_PREFIX_PATH="$prefix" >"$folder/cmake.log"
cmake --build "$folder/build" >>"$folder/cmake.log"
"$folder/build/simple" "$model" "Once upon a time" >"$folder/simple.txt"
test -s "$folder/simple.txt"
"$folder/build/placement" "$model" "Once upon a time" "$device" "$device" >"$folder/placement.txt" \
  2>"$folder/placement.log"
test -s "$folder/placement.txt"
grep -q "^the planner would choose: " "$folder/placement.log"
grep -q "^prefill on $device, decode on $device: " "$folder/placement.log"

echo "with pkg-config"
libdir=$(dirname "$(find "$prefix" -name consort.pc)")/..
export PKG_CONFIG_PATH="$libdir/pkgconfig"
# Flags are words.
# shellcheck disable=SC2046
cc "$folder/examples/simple.c" $(pkg-config --cflags --libs consort) -Wl,-rpath,"$libdir" \
  -o "$folder/simple"
"$folder/simple" "$model" "Once upon a time" >"$folder/again.txt"
cmp "$folder/simple.txt" "$folder/again.txt"

echo "a wrong call fails with a reason"
if "$folder/simple" /nonexistent.gguf "x" 2>"$folder/wrong.log"; then exit 1; fi
grep -q "/nonexistent.gguf" "$folder/wrong.log"
echo "done"
