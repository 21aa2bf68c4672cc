"""Takes tests/data/blocks.bin from the `gguf` package (PyPI, 0.19.0 made the one checked in); not run by the tests.

    python3 golden_blocks.py OUT

For each format: its name in 8 bytes, the number of elements and of encoded bytes (u32), random blocks, and their float32 values.
Scales are finite halves of any size, everything else is any bits.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import gguf
import numpy as np

# Where a block holds halves.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "F16": [0], "BF16": []}


def main() -> None:
    rng = np.random.default_rng(5)
    out = bytearray()
    for name, places in HALVES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        n = 3 if elements == 256 else 8 if elements == 32 else 256
        blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for place in places:
            bits = rng.integers(0, 0x7C00, n).astype(np.uint16) | (rng.integers(0, 2, n).astype(np.uint16) << 15)
            blocks[:, place:place + 2] = bits.view(np.uint8).reshape(-1, 2)
        if name == "BF16":
            blocks[:, 1] = (blocks[:, 1] & 0x80) | 0x3F
        values = gguf.quants.dequantize(blocks.reshape(-1) if elements == 1 else blocks, kind).astype("<f4").reshape(-1)
        assert len(values) == n * elements and np.isfinite(values).all(), name
        out += struct.pack("<8sII", name.lower().encode(), len(values), blocks.size) + blocks.tobytes() + values.tobytes()
    Path(sys.argv[1]).write_bytes(out)


if __name__ == "__main__":
    main()
