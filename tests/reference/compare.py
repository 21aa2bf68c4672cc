"""Compares logits (n_tokens, n_vocab) with reference logits.

    python3 compare.py A.npy REFERENCE.npy --max-nmse 1e-6

Prints NMSE = sum((a-b)²) / sum(b²), the largest absolute error, and in how many rows the argmax agrees. Where it does not,
the reference's two largest values must lie closer than 6·sqrt(max-nmse)·RMS(b); such rows count as near ties. The RMS is that of all
reference logits, as the NMSE is. Exit status: 0 within the limits, 1 past them, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Comparison:
    nmse: float
    max_error: float
    n_rows: int
    n_agreeing: int
    n_near_ties: int

    @property
    def n_wrong(self) -> int:
        return self.n_rows - self.n_agreeing - self.n_near_ties


def compare(a: NDArray[np.floating], b: NDArray[np.floating], max_nmse: float) -> Comparison:
    """Compares `a` with the reference `b`, both (n_tokens, n_vocab). NaN or Inf in `a` gives an infinite NMSE."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.isfinite(a).all():
        return Comparison(inf, inf, len(b), 0, 0)
    total = np.sum(b * b)
    error = np.sum((a - b) ** 2)
    nmse = float(error / total) if total > 0 else (0.0 if error == 0 else inf)
    second, first = np.partition(b, -2, axis=-1)[:, -2:].T
    agrees = a.argmax(axis=-1) == b.argmax(axis=-1)
    is_near_tie = ~agrees & (first - second < 6 * sqrt(max_nmse) * np.sqrt(np.mean(b * b)))
    return Comparison(nmse, float(np.abs(a - b).max()), len(b), int(agrees.sum()), int(is_near_tie.sum()))


def load(path: Path) -> NDArray[np.floating]:
    try:
        logits = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if logits.ndim != 2 or logits.shape[1] < 2 or logits.size == 0 or not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(f"{path}: {logits.dtype} {logits.shape} is not floating point (n_tokens, n_vocab)")
    return logits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("a", type=Path, help=".npy file to judge")
    parser.add_argument("reference", type=Path, help=".npy file taken as right")
    parser.add_argument("--max-nmse", type=float, default=1e-6, help="limit (default 1e-6)")
    args = parser.parse_args()
    try:
        a, b = load(args.a), load(args.reference)
    except ValueError as error:
        parser.error(str(error))
    if a.shape != b.shape:
        parser.error(f"shapes differ: {a.shape} and {b.shape}")
    result = compare(a, b, args.max_nmse)
    print(f"nmse {result.nmse:.3e}  max_error {result.max_error:.3e}  "
          f"argmax {result.n_agreeing}/{result.n_rows}  near_ties {result.n_near_ties}  wrong {result.n_wrong}")
    return 0 if result.nmse <= args.max_nmse and result.n_wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
