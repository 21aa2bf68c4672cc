#!/bin/sh
# consort run under valgrind: no memory error and no leak, with one device and with a KV transfer.
# What the dynamic loader keeps for libraries that stay loaded is still reachable and not counted.
set -eu

if ! command -v valgrind >/dev/null; then
  echo "skipped: no valgrind"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export XDG_CACHE_HOME="$folder"
PYTHONPATH=$CONSORT_TEST_SOURCE/tests/integration "$CONSORT_PYTHON" -c \
  'import cli_model, pathlib, sys; cli_model.write_model(pathlib.Path(sys.argv[1]))' "$folder"
if ! "$CONSORT_CLI" devices --json | grep -q '"name": "cpu:0"'; then
  echo "skipped: no CPU device"
  exit 77
fi

check() {
  echo "prefill on $1, decode on $2"
  valgrind --quiet --leak-check=full --show-leak-kinds=definite,indirect,possible \
    --errors-for-leak-kinds=definite,indirect,possible --error-exitcode=9 \
    "$CONSORT_CLI" run "$folder/tiny.gguf" -p "Once upon a time" -n 5 --temp 0.8 \
    --prefill "$1" --decode "$2" --stats
}
check cpu:0 cpu:0
check "cpu:0?threads=1" cpu:0
export CONSORT_CPU_PARTITIONS=2
check cpu:0 cpu:1
