"""The tokenizer that GGUF calls "llama" (SentencePiece BPE), independent of Consort's own.

    python3 spm.py MODEL TEXT      prints the ids, comma-separated, with BOS or EOS as the file asks

Spaces become "▁", one is put in front unless the file says no. Starting from single characters, the adjacent pair
whose joined piece has the highest score is merged, the leftmost of equals first, until no pair joins to a piece. What is
then no piece becomes its UTF-8 bytes. Pieces of type user-defined are cut out of the text first, the longest at each place.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from gguf import GgufError, GgufFile  # noqa: E402

SPACE = "\u2581"
TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_BYTE = 2, 3, 4, 6


class Tokenizer:
    def __init__(self, file: GgufFile) -> None:
        if file.get("tokenizer.ggml.model") != "llama":
            raise GgufError(f"{file.path}: tokenizer {file.get('tokenizer.ggml.model')}, only llama is read")
        self.pieces: list[str] = file.get("tokenizer.ggml.tokens")
        self.scores: list[float] = file.get("tokenizer.ggml.scores")
        self.types: list[int] = file.get("tokenizer.ggml.token_type")
        if not len(self.pieces) == len(self.scores) == len(self.types):
            raise GgufError(f"{file.path}: tokenizer.ggml.tokens, scores and token_type differ in length")
        self.bos: int = file.get("tokenizer.ggml.bos_token_id", 1)
        self.eos: int = file.get("tokenizer.ggml.eos_token_id", 2)
        self.unknown: int = file.get("tokenizer.ggml.unknown_token_id", 0)
        self.adds_bos: bool = file.get("tokenizer.ggml.add_bos_token", True)
        self.adds_eos: bool = file.get("tokenizer.ggml.add_eos_token", False)
        self.adds_space: bool = file.get("tokenizer.ggml.add_space_prefix", True)
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._user_defined = sorted((p for p, t in zip(self.pieces, self.types) if t == TYPE_USER_DEFINED), key=len, reverse=True)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text; without `special` no BOS or EOS is added."""
        ids = [self.bos] if special and self.adds_bos else []
        if text:
            ids += self._encode_text(SPACE + text if self.adds_space else text)
        return ids + ([self.eos] if special and self.adds_eos else [])

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, is_user_defined in self._cut_user_defined(text):
            ids += [self._ids[part]] if is_user_defined else self._merge(part.replace(" ", SPACE))
        return ids

    def _cut_user_defined(self, text: str) -> list[tuple[str, bool]]:
        parts: list[tuple[str, bool]] = []
        start = at = 0
        while at < len(text):
            piece = next((p for p in self._user_defined if text.startswith(p, at)), None)
            if piece is None:
                at += 1
                continue
            parts += [(text[start:at], False), (piece, True)]
            start = at = at + len(piece)
        return parts + [(text[start:], False)]

    def _merge(self, text: str) -> list[int]:
        symbols = list(text)
        # Links skip symbols merged away (""); a queued pair is stale when its text has changed since.
        before, after = list(range(-1, len(symbols) - 1)), list(range(1, len(symbols) + 1))
        queue: list[tuple[float, int, str]] = []

        def offer(left: int) -> None:
            if left >= 0 and after[left] < len(symbols):
                joined = symbols[left] + symbols[after[left]]
                if joined in self._ids:
                    heapq.heappush(queue, (-self.scores[self._ids[joined]], left, joined))

        for i in range(len(symbols)):
            offer(i)
        while queue:
            _, left, joined = heapq.heappop(queue)
            right = after[left]
            if not symbols[left] or right == len(symbols) or symbols[left] + symbols[right] != joined:
                continue
            symbols[left], symbols[right], after[left] = joined, "", after[right]
            if after[left] < len(symbols):
                before[after[left]] = left
            offer(before[left])
            offer(left)
        return [token for symbol in symbols if symbol for token in self._symbol_ids(symbol)]

    def _symbol_ids(self, symbol: str) -> list[int]:
        if symbol in self._ids:
            return [self._ids[symbol]]
        return [self._ids.get(f"<0x{byte:02X}>", self.unknown) for byte in symbol.encode("utf-8", "surrogateescape")]

    def decode(self, ids: list[int]) -> str:
        """Text of ids; control and unknown tokens give nothing, and the space put in front is removed."""
        data = bytearray()
        for token in ids:
            if self.types[token] == TYPE_BYTE:
                data.append(int(self.pieces[token][1:-1], 16))
            elif self.types[token] not in (TYPE_CONTROL, TYPE_UNKNOWN):
                data += self.pieces[token].replace(SPACE, " ").encode()
        text = data.decode("utf-8", "replace")
        return text[1:] if self.adds_space and text.startswith(" ") else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="GGUF file; vocabulary-only files will do")
    parser.add_argument("text")
    parser.add_argument("--no-special", action="store_true", help="add no BOS or EOS")
    args = parser.parse_args()
    try:
        print(",".join(map(str, Tokenizer(GgufFile.open(args.model)).encode(args.text, not args.no_special))))
    except GgufError as error:
        sys.exit(f"spm.py: error: {error}")


if __name__ == "__main__":
    main()
