#!/bin/bash
# One model on two kinds of chips: prefill on sim-a, decode on sim-b, a prompt through both.
#
#   sbatch job.sh MODEL PROMPT
#
# A heterogeneous job: each component asks for its own kind of chip. The workers offer what their
# steps were given and print where they listen; consort run, in the script, talks to both. Submit it
# from a folder that all nodes see.
#SBATCH --job-name=consort
#SBATCH --ntasks=1 --gres=gpu:sim-a:1
#SBATCH hetjob
#SBATCH --ntasks=1 --gres=gpu:sim-b:1
set -euo pipefail
model=$1 prompt=$2
folder=$(mktemp -d -p "$PWD")
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT

# Whoever does not know it is not served. It goes to the steps in their environment, never as an
# argument, which others on the node could read.
CONSORT_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export CONSORT_SECRET

start_worker() { # COMPONENT NAME: it says in a file where it listens
  srun --het-group="$1" bash -c '
    node=$(scontrol show node "$SLURMD_NODENAME" | sed -n "s/.*NodeAddr=\([^ ]*\).*/\1/p")
    address=$(getent ahostsv4 "$node" | awk "NR == 1 { print \$1 }")
    exec consort worker --listen "$address:0"' >"$folder/$2" &
}

address_of() { # NAME PROCESS: waits until the worker is ready
  until grep -q '^listening on ' "$folder/$1"; do
    kill -0 "$2" || { echo "the $1 worker ended" >&2; exit 1; }
    sleep 0.1
  done
  sed -n 's/^listening on //p' "$folder/$1"
}

device_at() { # ADDRESS PLUGIN: its first device there
  consort devices --worker "$1" --json | python3 -c 'import json, sys
print(next(d["name"] for p in json.load(sys.stdin)["plugins"] if p["name"] == sys.argv[1] for d in p["devices"]))' "$2"
}

start_worker 0 prefill
prefill_process=$!
start_worker 1 decode
decode_process=$!
prefill=$(address_of prefill $prefill_process)
decode=$(address_of decode $decode_process)
prefill=$prefill/$(device_at "$prefill" npu-sim)
decode=$decode/$(device_at "$decode" opencl)
consort run "$model" -p "$prompt" --temp 0 --json --prefill "$prefill" --decode "$decode"
