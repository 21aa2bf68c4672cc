"""Greedy ids of a llama-architecture GGUF file, from float64 logits.

    python3 greedy.py MODEL --tokens 1,2,3 -n 40      prints 40 ids, comma-separated
    python3 greedy.py MODEL --prompt TEXT -n 40 --text
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reference import GgufError, GgufFile, Reference, greedy, parse_tokens
from spm import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokens", type=parse_tokens, help="ids like 1,2,3")
    source.add_argument("--prompt", help="text, encoded with the file's own tokenizer")
    parser.add_argument("-n", "--n-new", type=int, default=32, help="how many ids to generate (default 32)")
    parser.add_argument("--text", action="store_true", help="print prompt and continuation as text instead of ids")
    args = parser.parse_args()
    try:
        file = GgufFile.open(args.model)
        tokens = args.tokens if args.prompt is None else Tokenizer(file).encode(args.prompt)
        ids = greedy(Reference(file), tokens, args.n_new)
        print(Tokenizer(file).decode(tokens + ids) if args.text else ",".join(map(str, ids)))
    except GgufError as error:
        sys.exit(f"greedy.py: error: {error}")


if __name__ == "__main__":
    main()
