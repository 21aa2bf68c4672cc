"""The AVX-VNNI build of the avx2vnni table has vpdpbusd and nothing that wants AVX-512.

    cpu_encoding_test.py OBJECT
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\t(?P<bytes>(?:[0-9a-f]{2} )+)\s*\t(?P<text>.+)$", re.MULTILINE)
EVEX = "62 "  # the first byte of every AVX-512 encoding, and of nothing else in 64-bit code


def main() -> None:
    if not shutil.which("objdump"):
        print("skipped: no objdump")
        sys.exit(77)
    listing = subprocess.run(["objdump", "-d", "-w", sys.argv[1]], capture_output=True, text=True, check=True).stdout
    found = INSTRUCTION.findall(listing)
    products = sum("vpdpbusd" in text for _, text in found)
    wrong = [text for encoded, text in found if encoded.startswith(EVEX)]
    print(f"{len(found)} instructions, {products} of them vpdpbusd, {len(wrong)} of AVX-512 {wrong[:3]}")
    if products == 0 or wrong:
        sys.exit(1)


main()
