#!/usr/bin/env python3
"""core, models and scheduler name no vendor, driver or plugin in their code.

Comments may give examples; identifiers and strings may not. Plugins are found by their manifests
and devices by their properties. Usage: names.py [ROOT]"""
import re

import source

NAMES = ["cpu", "opencl", "pocl", "level_zero", "levelzero", "oneapi", "sycl", "cuda", "nvidia",
         "cublas", "cublaslt", "intel", "amd", "rocm", "hip", "metal", "vulkan", "apple", "ascend",
         "cann", "qualcomm", "openblas", "hwloc", "npu_sim", "npu"]
# Names of the C library, the compiler and the ABI's own kinds of device that hold one of the words.
GRANTED = re.compile(r'\bCS_DEVICE_TYPE_CPU:\s*return "cpu"|\b(CS_DEVICE_TYPE_CPU|cpu_set_t'
                     r"|CPU_[A-Z_]+|sched_getcpu|__builtin_cpu_\w+|CLOCK_\w*CPUTIME\w*)\b")
WORD = re.compile(r"(?<![a-z0-9])(" + "|".join(NAMES) + r")(?![a-z])", re.IGNORECASE)


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def main():
    root = source.root_from_arguments()
    faults = []
    for path in source.files(root, ["core", "models", "scheduler"]):
        text = GRANTED.sub(blank, source.read(root, path))
        for number, line in enumerate(text.splitlines(), 1):
            match = WORD.search(line)
            if match:
                faults.append(f"{path}:{number}: names \"{match.group(1)}\": {line.strip()}")
    source.finish(faults, "no vendor's or plugin's name in core, models or scheduler")


main()
