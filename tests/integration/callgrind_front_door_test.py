"""The checked front door costs no more instructions an op than it did: counted, not timed.

    callgrind_front_door_test.py BENCH PLUGIN_FOLDER
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

OPS = 64 * 1000  # one round of the benchmark
MOST_INSTRUCTIONS = 300  # an op: a quarter above what gcc 12 makes of it


def count_instructions(bench: str, folder: str) -> int:
    """Spent within cs_stream_ops, the plugin's empty enqueue included."""
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=cs_stream_ops", "--callgrind-out-file=/dev/null",
               bench, folder, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if not collected:
        sys.exit(f"valgrind told no count:\n{done.stderr[-2000:]}")
    return int(collected[1])


def main() -> None:
    if not shutil.which("valgrind"):
        print("skipped: no valgrind")
        sys.exit(77)
    instructions = count_instructions(*sys.argv[1:3]) / OPS
    print(f"{instructions:.1f} instructions an op; {MOST_INSTRUCTIONS} at most")
    if not 10 < instructions <= MOST_INSTRUCTIONS:
        sys.exit(1)


main()
