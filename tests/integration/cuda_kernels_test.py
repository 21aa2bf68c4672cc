"""Every CUDA target compiles without a warning, and no hot kernel (matmul, attention, norm, KV) spills registers. Prints
registers, shared memory, stack and spills of each kernel. Needs nvcc, no GPU; two targets are compiled at once.

Environment: CONSORT_TEST_NVCC, CONSORT_TEST_CUDA_TARGETS (as in backends/cuda/CMakeLists.txt, by commas)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(os.environ["CONSORT_TEST_SOURCE"])
KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'(.*?)Used (\d+) registers([^\n]*)", re.DOTALL)
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
HOT = re.compile(r"matmul_|attention_|rms_norm|kv_|wire_|halve_rows|fp8_")
SHARED = re.compile(r"(\d+) bytes smem")


def compile_for(target: str, output: Path) -> str:
    """What ptxas says about one target."""
    number = target.rstrip("+")
    done = subprocess.run(
        [os.environ["CONSORT_TEST_NVCC"], "-fatbin", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "-gencode",
         f"arch=compute_{number},code=sm_{number}", "-o", output, SOURCE / "backends/cuda/kernels/kernels.cu"],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"sm_{number} does not compile without warnings:\n{done.stderr}{done.stdout}")
    return done.stderr + done.stdout


def main() -> None:
    spilled = []
    targets = os.environ["CONSORT_TEST_CUDA_TARGETS"].split(",")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        for target, said in zip(targets, pool.map(lambda t: compile_for(t, Path(folder) / t), targets)):
            found, most = 0, 0
            for name, architecture, detail, registers, rest in KERNEL.findall(said):
                found, most = found + 1, max(most, int(registers))
                stack, stores, loads = map(int, SPILLS.search(detail).groups())
                shared = SHARED.search(rest)
                print(f"{architecture:8} {name:28} {registers:>4} registers {shared.group(1) if shared else 0:>6} shared "
                      f"{stack:>4} stack {stores + loads:>4} spilled")
                if HOT.match(name) and (stores or loads or stack):
                    spilled.append(f"{architecture} {name}: stack {stack}, spill stores {stores}, loads {loads}")
            if found == 0:
                sys.exit(f"{target}: ptxas named no kernel")
            print(f"{target}: {found} kernels, at most {most} registers", flush=True)
    if spilled:
        sys.exit("\n".join(spilled))


main()
