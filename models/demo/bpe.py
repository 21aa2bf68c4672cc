"""Byte-pair vocabulary in the style of SentencePiece, as GGUF's `tokenizer.ggml.model = "llama"` reads it.

A text is written with "▁" for each space and one "▁" in front. Encoding starts from single characters and
always merges the adjacent pair whose joined piece has the highest score (the leftmost of equals), until no pair joins to a
piece; a character that is no piece becomes its UTF-8 bytes, `<0xNN>`.

Merges are learned inside chunks only (a word with its space, a run of punctuation with its line ends). Whether
two characters part chunks depends on these two characters alone, so no piece can straddle a boundary, and encoding chunk by
chunk equals encoding the whole text at once. That makes training data cheap to draw again with other merges left out
(BPE dropout, Provilkov et al. 2020).
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

SPACE = "\u2581"
UNKNOWN, BOS, EOS, FIRST_BYTE, FIRST_PIECE = 0, 1, 2, 3, 259
TYPE_NORMAL, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_BYTE = 1, 2, 3, 6


def parts_chunks(left: str, right: str) -> bool:
    """True if a chunk ends between two adjacent characters."""
    if right == SPACE:
        return True
    if left == SPACE:
        return False
    if left == "\n":
        return right != "\n"
    left_is_word, right_is_word = left.isalpha() or left == "'", right.isalpha() or right == "'"
    return left_is_word != right_is_word


def split_chunks(text: str) -> list[str]:
    """Cuts an escaped text ("▁" for spaces) into chunks; joined they are the text again."""
    chunks, start = [], 0
    for i in range(1, len(text)):
        if parts_chunks(text[i - 1], text[i]):
            chunks.append(text[start:i])
            start = i
    if text:
        chunks.append(text[start:])
    return chunks


def escape(text: str) -> str:
    """Writes spaces as "▁" and puts one in front, as `add_space_prefix` asks."""
    return SPACE + text.replace(" ", SPACE)


def learn_pieces(text: str, n_pieces: int) -> list[str]:
    """Learns normal pieces from an escaped text: merges in the order learned, then single characters by frequency.

    The order is the rank: a piece's score is minus its place. At most `n_pieces` are returned.
    """
    counts = Counter(split_chunks(text))
    words = [list(chunk) for chunk in counts]
    weights = list(counts.values())
    characters = [c for c, _ in Counter(text).most_common()]
    pair_counts: Counter[tuple[str, str]] = Counter()
    pair_words: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += weights[i]
            pair_words[pair].add(i)
    merges: dict[str, None] = {}
    while len(merges) + len(characters) < n_pieces and pair_counts:
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], pair))
        if pair_counts[best] < 2:
            break
        merges.setdefault(best[0] + best[1])
        for i in list(pair_words[best]):
            for pair in zip(words[i], words[i][1:]):
                pair_counts[pair] -= weights[i]
                pair_words[pair].discard(i)
            words[i] = _join_pair(words[i], best)
            for pair in zip(words[i], words[i][1:]):
                pair_counts[pair] += weights[i]
                pair_words[pair].add(i)
        del pair_counts[best]
    return list(merges) + characters


def _join_pair(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            joined.append(word[i] + word[i + 1])
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined


class Vocabulary:
    """Pieces, scores and types by token id, and the encoder over them."""

    def __init__(self, normal_pieces: list[str]) -> None:
        """`normal_pieces` in rank order get the ids from 259 on, after <unk>, <s>, </s> and 256 byte tokens."""
        self.pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + normal_pieces
        self.scores = [0.0] * FIRST_PIECE + [-float(rank) for rank in range(len(normal_pieces))]
        self.types = ([TYPE_UNKNOWN, TYPE_CONTROL, TYPE_CONTROL] + [TYPE_BYTE] * 256
                      + [TYPE_NORMAL] * len(normal_pieces))
        self._ids = {piece: FIRST_PIECE + rank for rank, piece in enumerate(normal_pieces)}
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    def encode_chunk(self, chunk: str, dropout: float = 0.0, rng: np.random.Generator | None = None) -> list[int]:
        """Token ids of one chunk; with `dropout` each possible merge is passed over with that probability at each step."""
        symbols = list(chunk)
        while len(symbols) > 1:
            best_id, best_at = len(self.pieces), -1
            for i in range(len(symbols) - 1):
                token = self._ids.get(symbols[i] + symbols[i + 1], best_id)
                if token < best_id and not (dropout and rng.random() < dropout):
                    best_id, best_at = token, i
            if best_at < 0:
                break
            symbols[best_at:best_at + 2] = [self.pieces[best_id]]
        ids = []
        for symbol in symbols:
            token = self._ids.get(symbol)
            ids.extend([token] if token is not None else [FIRST_BYTE + b for b in symbol.encode()])
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS or EOS."""
        ids: list[int] = []
        for chunk in split_chunks(escape(text)):
            if chunk not in self._cache:
                self._cache[chunk] = self.encode_chunk(chunk)
            ids.extend(self._cache[chunk])
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids; control tokens give nothing, and the one space in front is removed."""
        data = bytearray()
        for token in ids:
            if FIRST_BYTE <= token < FIRST_PIECE:
                data.append(token - FIRST_BYTE)
            elif token >= FIRST_PIECE:
                data += self.pieces[token].replace(SPACE, " ").encode()
        text = data.decode(errors="replace")
        return text[1:] if text.startswith(" ") else text
