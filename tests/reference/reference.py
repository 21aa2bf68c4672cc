"""Logits of a GGUF file in float64: the independent oracle for whole models.

    python3 reference.py MODEL --tokens 1,2,3 -o out.npy      writes float64 (n_tokens, n_vocab)

Weights are dequantized and every product, norm and softmax is done in float64; nothing is fused or approximated. One layer is

    x = x + Wo · attention(rope(Wq·n), rope(Wk·n), Wv·n),    n = rms_norm(x, attn_norm)
    x = x + Wdown · (silu(Wgate·m) ∘ (Wup·m)),               m = rms_norm(x, ffn_norm)

with rms_norm(x, w) = w ∘ x / sqrt(mean(x²) + eps) and query head h reading KV head h // (heads / kv_heads). Options, as the file has
them: biases of q, k and v; norms of each query and key head; a sliding window; RoPE on the pairs (2i, 2i+1) (llama) or
(i, i + width/2) (the qwen family), with linear or YaRN scaling or divisors; and in place of the FFN a sum over the k experts with
the largest scores p = softmax(Wrouter·m), each weighted by its p, divided by the sum of the k.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from gguf import GgufError, GgufFile  # noqa: E402

Array = NDArray[np.float64]

# Up to this many weights are kept as float64 between calls; larger models are dequantized each time.
CACHED_WEIGHTS = 64 << 20


@dataclass(frozen=True)
class Shape:
    """Sizes and constants of a model."""

    architecture: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    key_width: int
    value_width: int
    rope_width: int
    rope_base: float
    rope_scaling: str
    rope_factor: float
    rope_original: float
    rope_attention_factor: float
    rms_eps: float
    window: int
    window_first_layer: int
    n_experts_used: int
    normalizes_experts: bool

    @classmethod
    def of(cls, file: GgufFile) -> Shape:
        architecture = file.get("general.architecture")
        if architecture not in ("llama", "qwen2", "qwen3", "qwen3moe"):
            raise GgufError(f"{file.path}: architecture {architecture} is not computed")

        def get(key: str, default: Any = None) -> Any:
            return file.get(f"{architecture}.{key}", default)

        n_embd, n_heads = get("embedding_length"), get("attention.head_count")
        key_width = get("attention.key_length", n_embd // n_heads)
        scaling = get("rope.scaling.type", "none")
        if scaling not in ("none", "linear", "yarn"):
            raise GgufError(f"{file.path}: {architecture}.rope.scaling.type {scaling} is not computed")
        return cls(architecture=architecture, n_layers=get("block_count"), n_embd=n_embd, n_heads=n_heads,
                   n_kv_heads=get("attention.head_count_kv", n_heads), key_width=key_width,
                   value_width=get("attention.value_length", n_embd // n_heads),
                   rope_width=get("rope.dimension_count", key_width), rope_base=get("rope.freq_base", 10000.0),
                   rope_scaling=scaling, rope_factor=get("rope.scaling.factor", 1.0),
                   rope_original=get("rope.scaling.original_context_length", get("context_length")),
                   rope_attention_factor=get("rope.scaling.attn_factor", 1.0), rms_eps=get("attention.layer_norm_rms_epsilon"),
                   window=get("attention.sliding_window", 0), window_first_layer=get("attention.sliding_window_first_layer", 0),
                   n_experts_used=get("expert_used_count", 0), normalizes_experts=get("expert_weights_norm", True))


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

    def _cached(self, rows: Array) -> Array:
        """What a cache makes of rows of K or V that are written to it; here nothing."""
        return rows

    def _attention(self, x: Array, layer: int) -> Array:
        """(n, n_embd) -> (n, n_embd); appends to the layer's keys and values."""
        s, n = self.shape, len(x)
        x = rms_norm(x, self._layer_weight(layer, "attn_norm"), s.rms_eps)
        positions = np.arange(self.n_past, self.n_past + n)
        q = self._project(x, layer, "attn_q").reshape(n, s.n_heads, s.key_width)
        k = self._project(x, layer, "attn_k").reshape(n, s.n_kv_heads, s.key_width)
        v = self._project(x, layer, "attn_v").reshape(n, s.n_kv_heads, s.value_width)
        if f"blk.{layer}.attn_q_norm.weight" in self.file.tensors:
            q = rms_norm(q, self._layer_weight(layer, "attn_q_norm"), s.rms_eps)
            k = rms_norm(k, self._layer_weight(layer, "attn_k_norm"), s.rms_eps)
        self._keys[layer] = np.concatenate((self._keys[layer], self._cached(self._rope(k, positions))))
        self._values[layer] = np.concatenate((self._values[layer], self._cached(v)))
        q = self._rope(q, positions)
        keys = np.arange(self.n_past + n)[None, :]
        is_hidden = keys > positions[:, None]
        if s.window and layer >= s.window_first_layer:
            is_hidden |= keys <= positions[:, None] - s.window
        out = np.empty((n, s.n_heads, s.value_width))
        for head in range(s.n_heads):
            kv_head = head // (s.n_heads // s.n_kv_heads)
            scores = q[:, head] @ self._keys[layer][:, kv_head].T / np.sqrt(s.key_width)
            out[:, head] = softmax(np.where(is_hidden, -np.inf, scores)) @ self._values[layer][:, kv_head]
        return self._project(out.reshape(n, -1), layer, "attn_output")

    def _project(self, x: Array, layer: int, name: str) -> Array:
        bias = f"blk.{layer}.{name}.bias"
        return x @ self._layer_weight(layer, name).T + (self._weight(bias) if bias in self.file.tensors else 0.0)

    def _feed_forward(self, x: Array, layer: int) -> Array:
        """(n, n_embd) -> (n, n_embd)"""
        x = rms_norm(x, self._layer_weight(layer, "ffn_norm"), self.shape.rms_eps)
        if self.shape.n_experts_used:
            return self._experts(x, layer)
        gate, up = (x @ self._layer_weight(layer, name).T for name in ("ffn_gate", "ffn_up"))
        return (silu(gate) * up) @ self._layer_weight(layer, "ffn_down").T

    def _experts(self, x: Array, layer: int) -> Array:
        """(n, n_embd) -> (n, n_embd)"""
        gate, up, down = (self._layer_weight(layer, f"ffn_{name}_exps") for name in ("gate", "up", "down"))
        scores = softmax(x @ self._layer_weight(layer, "ffn_gate_inp").T)
        out = np.zeros_like(x)
        for i, row in enumerate(x):
            chosen = np.argsort(-scores[i], kind="stable")[:self.shape.n_experts_used]
            shares = scores[i, chosen]
            if self.shape.normalizes_experts:
                shares = shares / shares.sum()
            for expert, share in zip(chosen, shares):
                out[i] += share * (down[expert] @ (silu(gate[expert] @ row) * (up[expert] @ row)))
        return out

    def _rates(self) -> tuple[Array, float]:
        """Radians a position for each pair, and what turned elements are multiplied by."""
        s = self.shape
        rates = s.rope_base ** (-np.arange(0, s.rope_width, 2) / s.rope_width)
        if "rope_freqs.weight" in self.file.tensors:
            rates = rates / self._weight("rope_freqs.weight")
        if s.rope_scaling == "linear":
            return rates / s.rope_factor, 1.0
        if s.rope_scaling == "none":
            return rates, 1.0
        # YaRN: pairs that turn less than once over the original context are slowed down by the factor, those that turn
        # more than 32 times are kept, a ramp lies between.
        first, last = (s.rope_width * np.log(s.rope_original / (turns * 2 * np.pi)) / (2 * np.log(s.rope_base)) for turns in (32, 1))
        first, last = max(np.floor(first), 0), min(np.ceil(last), s.rope_width - 1)
        ramp = np.clip((np.arange(s.rope_width // 2) - first) / max(last - first, 0.001), 0, 1)
        return rates * (1 - ramp) + rates / s.rope_factor * ramp, s.rope_attention_factor * (1 + 0.1 * np.log(s.rope_factor))

    def _rope(self, x: Array, positions: NDArray[np.int64]) -> Array:
        """Turns the pairs of x (n, heads, width) by position · rate."""
        width = self.shape.rope_width
        rates, magnitude = self._rates()
        angles = positions[:, None, None] * rates
        half = width // 2
        first, second = (slice(0, width, 2), slice(1, width, 2)) if self.shape.architecture == "llama" else \
            (slice(0, half), slice(half, width))
        a, b = x[..., first] * magnitude, x[..., second] * magnitude
        out = x.copy()
        out[..., first] = a * np.cos(angles) - b * np.sin(angles)
        out[..., second] = a * np.sin(angles) + b * np.cos(angles)
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
    parser.add_argument("model", type=Path, help="GGUF file with weights in F32, F16, BF16, Q8_0 or Q4_0")
    parser.add_argument("--tokens", type=parse_tokens, required=True, help="ids like 1,2,3")
    parser.add_argument("-o", "--out", type=Path, required=True, help=".npy file, float64 (n_tokens, n_vocab)")
    args = parser.parse_args()
    try:
        np.save(args.out, Reference(GgufFile.open(args.model)).forward(args.tokens))
    except (GgufError, OSError) as error:
        sys.exit(f"reference.py: error: {error}")


if __name__ == "__main__":
    main()
