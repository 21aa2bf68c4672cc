"""Bits per byte of a GGUF model on the last tenth of a text, from the float64 reference logits.

    python3 evaluate.py MODEL --text FILE

The tenth is encoded once and cut into windows that fill the context with BOS in front. With `--stride` equal to the window
(the default) no token sees across a cut; a smaller stride scores only the last `stride` tokens of each later window, so that each
has at least the rest of the window before it. Every token is scored once; the sum of -log2 p is divided by the UTF-8 bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
from reference import GgufError, GgufFile, Reference  # noqa: E402
from spm import Tokenizer  # noqa: E402


def windows(n_tokens: int, width: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first scored, end) so that each of `n_tokens` is scored once in windows of at most `width`."""
    scored = 0
    while scored < n_tokens:
        end = width if scored == 0 else scored + stride
        yield end - width, scored, min(end, n_tokens)
        scored = end


def bits_per_byte(file: GgufFile, text: str, stride: int | None, max_windows: int | None) -> tuple[float, int]:
    """Bits per byte, and the number of windows it was measured on."""
    tokenizer, model = Tokenizer(file), Reference(file)
    tokens = tokenizer.encode(text, special=False)
    width = file.get("llama.context_length") - 1
    bits, n_scored, n_windows = 0.0, 0, 0
    for begin, first, end in windows(len(tokens), width, stride or width):
        if n_windows == max_windows:
            break
        model.forget()
        logits = model.forward([tokenizer.bos] + tokens[begin:end - 1])[first - begin:]
        shifted = logits - logits.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        bits -= log_p[np.arange(end - first), tokens[first:end]].sum() / np.log(2)
        n_scored, n_windows = end, n_windows + 1
    is_whole = n_scored == len(tokens)
    n_bytes = len((text if is_whole else tokenizer.decode(tokens[:n_scored])).encode())
    return bits / n_bytes, n_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="the whole text; its last tenth is scored")
    parser.add_argument("--stride", type=int, help="tokens scored a window (default: all)")
    parser.add_argument("--windows", type=int, help="stop after so many")
    args = parser.parse_args()
    if args.stride is not None and args.stride < 1:
        parser.error("--stride must be at least 1")
    try:
        text = args.text.read_text(encoding="utf-8")
        bits, n_windows = bits_per_byte(GgufFile.open(args.model), text[len(text) * 9 // 10:], args.stride, args.windows)
    except (GgufError, OSError) as error:
        sys.exit(f"evaluate.py: error: {error}")
    print(f"{bits:.4f} bits/byte in {n_windows} windows")


if __name__ == "__main__":
    main()
