"""Logits of a llama-architecture GGUF file in float64: the independent oracle for whole models.

    python3 reference.py MODEL --tokens 1,2,3 -o out.npy      writes float64 (n_tokens, n_vocab)

Weights are dequantized and every product, norm and softmax is done in float64; nothing is fused or approximated. One layer is

    x = x + Wo · attention(rope(Wq·n), rope(Wk·n), Wv·n),    n = rms_norm(x, attn_norm)
    x = x + Wdown · (silu(Wgate·m) ∘ (Wup·m)),               m = rms_norm(x, ffn_norm)

with rms_norm(x, w) = w ∘ x / sqrt(mean(x²) + eps), RoPE on the pairs (2i, 2i+1) and query head h reading KV head h // (heads / kv_heads).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from gguf import GgufError, GgufFile  # noqa: E402

Array = NDArray[np.float64]

# Up to this many weights are kept as float64 between calls; larger models are dequantized each time.
CACHED_WEIGHTS = 64 << 20


@dataclass(frozen=True)
class Shape:
    """Sizes and constants of a llama-architecture model."""

    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    key_width: int
    value_width: int
    rope_width: int
    rope_base: float
    rope_scale: float
    rms_eps: float

    @classmethod
    def of(cls, file: GgufFile) -> Shape:
        if file.get("general.architecture") != "llama":
            raise GgufError(f"{file.path}: architecture {file.get('general.architecture')}, only llama is computed")
        n_embd, n_heads = file.get("llama.embedding_length"), file.get("llama.attention.head_count")
        key_width = file.get("llama.attention.key_length", n_embd // n_heads)
        scaling = file.get("llama.rope.scaling.type", "none")
        if scaling not in ("none", "linear"):
            raise GgufError(f"{file.path}: llama.rope.scaling.type {scaling} is not computed")
        return cls(n_layers=file.get("llama.block_count"), n_embd=n_embd, n_heads=n_heads,
                   n_kv_heads=file.get("llama.attention.head_count_kv", n_heads), key_width=key_width,
                   value_width=file.get("llama.attention.value_length", n_embd // n_heads),
                   rope_width=file.get("llama.rope.dimension_count", key_width),
                   rope_base=file.get("llama.rope.freq_base", 10000.0),
                   rope_scale=file.get("llama.rope.scaling.factor", 1.0) if scaling == "linear" else 1.0,
                   rms_eps=file.get("llama.attention.layer_norm_rms_epsilon"))


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """(n, width), (width) -> (n, width)"""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def softmax(x: Array) -> Array:
    """Over the last axis; -inf gives 0."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    return x * 0.5 * (1.0 + np.tanh(0.5 * x))


class Reference:
    """A model and the keys and values of the tokens it has read so far."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.shape = file, Shape.of(file)
        self._caches_weights = sum(np.prod(t.shape) for t in file.tensors.values()) <= CACHED_WEIGHTS
        self._weights: dict[str, Array] = {}
        self.forget()

    def forget(self) -> None:
        """Starts a new sequence."""
        s = self.shape
        self.n_past = 0
        self._keys = [np.zeros((0, s.n_kv_heads, s.key_width)) for _ in range(s.n_layers)]
        self._values = [np.zeros((0, s.n_kv_heads, s.value_width)) for _ in range(s.n_layers)]

    def forward(self, tokens: list[int]) -> Array:
        """Reads more tokens; logits (n_tokens, n_vocab), row i those after token i."""
        embeddings = self._weight("token_embd.weight")
        for token in tokens:
            if not 0 <= token < len(embeddings):
                raise GgufError(f"{self.file.path}: token {token} is not in 0..{len(embeddings) - 1}")
        x = embeddings[tokens]
        for layer in range(self.shape.n_layers):
            x = x + self._attention(x, layer)
            x = x + self._feed_forward(x, layer)
        self.n_past += len(tokens)
        x = rms_norm(x, self._weight("output_norm.weight"), self.shape.rms_eps)
        is_tied = "output.weight" not in self.file.tensors
        return x @ (embeddings if is_tied else self._weight("output.weight")).T

    def _attention(self, x: Array, layer: int) -> Array:
        """(n, n_embd) -> (n, n_embd); appends to the layer's keys and values."""
        s, n = self.shape, len(x)
        x = rms_norm(x, self._layer_weight(layer, "attn_norm"), s.rms_eps)
        positions = np.arange(self.n_past, self.n_past + n)
        q = (x @ self._layer_weight(layer, "attn_q").T).reshape(n, s.n_heads, s.key_width)
        k = (x @ self._layer_weight(layer, "attn_k").T).reshape(n, s.n_kv_heads, s.key_width)
        v = (x @ self._layer_weight(layer, "attn_v").T).reshape(n, s.n_kv_heads, s.value_width)
        self._keys[layer] = np.concatenate((self._keys[layer], self._rope(k, positions)))
        self._values[layer] = np.concatenate((self._values[layer], v))
        q = self._rope(q, positions)
        is_hidden = np.arange(self.n_past + n)[None, :] > positions[:, None]
        out = np.empty((n, s.n_heads, s.value_width))
        for head in range(s.n_heads):
            kv_head = head // (s.n_heads // s.n_kv_heads)
            scores = q[:, head] @ self._keys[layer][:, kv_head].T / np.sqrt(s.key_width)
            out[:, head] = softmax(np.where(is_hidden, -np.inf, scores)) @ self._values[layer][:, kv_head]
        return out.reshape(n, -1) @ self._layer_weight(layer, "attn_output").T

    def _feed_forward(self, x: Array, layer: int) -> Array:
        """(n, n_embd) -> (n, n_embd)"""
        x = rms_norm(x, self._layer_weight(layer, "ffn_norm"), self.shape.rms_eps)
        gate, up = (x @ self._layer_weight(layer, name).T for name in ("ffn_gate", "ffn_up"))
        return (silu(gate) * up) @ self._layer_weight(layer, "ffn_down").T

    def _rope(self, x: Array, positions: NDArray[np.int64]) -> Array:
        """Turns the pairs (2i, 2i+1) of x (n, heads, width) by position · base^(-2i / rope_width) / factor_i."""
        width = self.shape.rope_width
        rates = self.shape.rope_base ** (-np.arange(0, width, 2) / width) / self.shape.rope_scale
        if "rope_freqs.weight" in self.file.tensors:
            rates = rates / self._weight("rope_freqs.weight")
        angles = positions[:, None, None] * rates
        even, odd = x[..., 0:width:2], x[..., 1:width:2]
        out = x.copy()
        out[..., 0:width:2] = even * np.cos(angles) - odd * np.sin(angles)
        out[..., 1:width:2] = even * np.sin(angles) + odd * np.cos(angles)
        return out

    def _layer_weight(self, layer: int, name: str) -> Array:
        return self._weight(f"blk.{layer}.{name}.weight")

    def _weight(self, name: str) -> Array:
        if name in self._weights:
            return self._weights[name]
        weight = self.file.array(name).astype(np.float64)
        if self._caches_weights:
            self._weights[name] = weight
        return weight


def greedy(model: Reference, tokens: list[int], n_new: int) -> list[int]:
    """The `n_new` ids after `tokens`, each the argmax (the lowest id of equals)."""
    ids: list[int] = []
    pending = tokens
    for _ in range(n_new):
        ids.append(int(model.forward(pending)[-1].argmax()))
        pending = ids[-1:]
    return ids


def parse_tokens(text: str) -> list[int]:
    """Token ids from "1,2,3"; an argparse type."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids like 1,2,3") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="GGUF file, llama architecture, F32, F16, BF16, Q8_0 or Q4_0")
    parser.add_argument("--tokens", type=parse_tokens, required=True, help="ids like 1,2,3")
    parser.add_argument("-o", "--out", type=Path, required=True, help=".npy file, float64 (n_tokens, n_vocab)")
    args = parser.parse_args()
    try:
        np.save(args.out, Reference(GgufFile.open(args.model)).forward(args.tokens))
    except (GgufError, OSError) as error:
        sys.exit(f"reference.py: error: {error}")


if __name__ == "__main__":
    main()
