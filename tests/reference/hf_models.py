"""Tiny seeded models of every architecture, as Hugging Face folders and as GGUF files of the same weights.

    python3 hf_models.py OUT          makes OUT/NAME/ (config.json, model.safetensors) and OUT/NAME.gguf for every case

Weights come from PCG64's raw words, whose stream numpy promises never to change, so that logits once taken from another
library stay comparable. Matrices have standard deviation 1/sqrt(fan-in), norms lie near 1. A folder holds its weights in F32.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import gguf  # noqa: E402
from gguf import Tensor, TensorType, Value  # noqa: E402

Array = NDArray[np.float32]
N_VOCAB, N_LAYERS = 128, 3
N_TOKENS = 512


@dataclass(frozen=True)
class Case:
    """`config` overrides the usual keys of config.json; `keys` are what a GGUF file says beside the usual ones."""

    name: str
    seed: int
    model_type: str
    class_name: str
    architecture: str
    config: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Value] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        usual = {"architectures": [self.class_name], "model_type": self.model_type, "hidden_size": 64, "intermediate_size": 96,
                 "num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": N_VOCAB,
                 "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 1024, "hidden_act": "silu",
                 "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2}
        return usual | self.config


def _yarn(**more: float) -> dict[str, Any]:
    return {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128} | more


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}
_f32, _u32, _text = gguf.f32, gguf.u32, gguf.string
_YARN_KEYS = {"rope.scaling.type": _text("yarn"), "rope.scaling.factor": _f32(8.0),
              "rope.scaling.original_context_length": _u32(128)}

CASES = [
    Case("llama", 1, "llama", "LlamaForCausalLM", "llama"),
    Case("llama-tied-wide", 2, "llama", "LlamaForCausalLM", "llama",
         {"head_dim": 24, "tie_word_embeddings": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-6}),
    Case("llama-linear", 3, "llama", "LlamaForCausalLM", "llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
         {"rope.scaling.type": _text("linear"), "rope.scaling.factor": _f32(4.0)}),
    Case("llama3", 4, "llama", "LlamaForCausalLM", "llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    Case("llama-yarn", 5, "llama", "LlamaForCausalLM", "llama", {"rope_scaling": _yarn()}, _YARN_KEYS),
    Case("mistral", 6, "mistral", "MistralForCausalLM", "llama", {"sliding_window": 48, "head_dim": 16},
         {"attention.sliding_window": _u32(48)}),
    Case("mixtral", 7, "mixtral", "MixtralForCausalLM", "llama",
         {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
         {"expert_count": _u32(8), "expert_used_count": _u32(2)}),
    Case("qwen2", 8, "qwen2", "Qwen2ForCausalLM", "qwen2", {"rope_theta": 1000000.0}),
    Case("qwen2-window", 9, "qwen2", "Qwen2ForCausalLM", "qwen2",
         {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
         {"attention.sliding_window": _u32(40), "attention.sliding_window_first_layer": _u32(1)}),
    Case("qwen3-yarn", 10, "qwen3", "Qwen3ForCausalLM", "qwen3",
         {"head_dim": 32, "rope_scaling": _yarn(attention_factor=1.3)},
         _YARN_KEYS | {"rope.scaling.attn_factor": _f32(1.3 / (1 + 0.1 * float(np.log(8.0))))}),
    Case("qwen3moe", 11, "qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe",
         {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": True,
          "decoder_sparse_step": 1, "mlp_only_layers": []},
         {"expert_count": _u32(6), "expert_used_count": _u32(3), "expert_feed_forward_length": _u32(32)}),
    Case("qwen3moe-plain", 12, "qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe",
         {"head_dim": 16, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": False,
          "decoder_sparse_step": 1, "mlp_only_layers": []},
         {"expert_count": _u32(5), "expert_used_count": _u32(2), "expert_feed_forward_length": _u32(40),
          "expert_weights_norm": gguf.boolean(False)}),
]


def case(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


class Draw:
    """Uniform numbers of a given standard deviation."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.PCG64(seed)

    def numbers(self, shape: tuple[int, ...], deviation: float) -> Array:
        words = self._words.random_raw(int(np.prod(shape))) >> np.uint64(11)
        unit = words.astype(np.float64) * (2.0 / 2**53) - 1.0
        return (unit * (deviation * np.sqrt(3.0))).astype(np.float32).reshape(shape)

    def matrix(self, n_out: int, n_in: int) -> Array:
        return self.numbers((n_out, n_in), 1 / np.sqrt(n_in))

    def norm(self, n: int) -> Array:
        return np.float32(1) + self.numbers((n,), 0.2)


def tokens(n: int = N_TOKENS, seed: int = 99) -> list[int]:
    return [int(w >> np.uint64(32)) % N_VOCAB for w in np.random.PCG64(seed).random_raw(n)]


def hf_tensors(of: Case) -> dict[str, Array]:
    """Names and layout as the `transformers` library saves them."""
    c, draw = of.settings(), Draw(of.seed)
    embd, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    width = c.get("head_dim", embd // heads)
    out: dict[str, Array] = {"model.embed_tokens.weight": draw.numbers((N_VOCAB, embd), 1.0)}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = draw.matrix(N_VOCAB, embd)
    out["model.norm.weight"] = draw.norm(embd)
    for layer in range(N_LAYERS):
        p = f"model.layers.{layer}."
        for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            out[f"{p}self_attn.{name}_proj.weight"] = draw.matrix(n * width, embd)
            if of.model_type == "qwen2":
                out[f"{p}self_attn.{name}_proj.bias"] = draw.numbers((n * width,), 0.5)
        if of.architecture.startswith("qwen3"):
            out[f"{p}self_attn.q_norm.weight"], out[f"{p}self_attn.k_norm.weight"] = draw.norm(width), draw.norm(width)
        out[f"{p}self_attn.o_proj.weight"] = draw.matrix(embd, heads * width)
        out[f"{p}input_layernorm.weight"], out[f"{p}post_attention_layernorm.weight"] = draw.norm(embd), draw.norm(embd)
        for name, (n_out, n_in) in _ffn(of, c):
            out[p + name] = draw.matrix(n_out, n_in)
    return out


def _ffn(of: Case, c: dict[str, Any]) -> list[tuple[str, tuple[int, int]]]:
    embd = c["hidden_size"]
    if of.model_type not in ("mixtral", "qwen3_moe"):
        n = c["intermediate_size"]
        return [("mlp.gate_proj.weight", (n, embd)), ("mlp.up_proj.weight", (n, embd)), ("mlp.down_proj.weight", (embd, n))]
    mixtral = of.model_type == "mixtral"
    block, names = ("block_sparse_moe", "w1 w3 w2") if mixtral else ("mlp", "gate_proj up_proj down_proj")
    n_experts, n = (c["num_local_experts"], c["intermediate_size"]) if mixtral else (c["num_experts"], c["moe_intermediate_size"])
    gate, up, down = names.split()
    out = [(f"{block}.gate.weight", (n_experts, embd))]
    for e in range(n_experts):
        p = f"{block}.experts.{e}."
        out += [(f"{p}{gate}.weight", (n, embd)), (f"{p}{up}.weight", (n, embd)), (f"{p}{down}.weight", (embd, n))]
    return out


def write_safetensors(path: Path, tensors: dict[str, Array], dtype: str = "F32") -> None:
    """dtype: F32, F16 or BF16, of every tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in sorted(tensors.items()):
        raw = gguf.quantize(values, TensorType[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def write_folder(of: Case, folder: Path, n_shards: int = 1, dtype: str = "F32") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(of.settings(), indent=1))
    tensors = hf_tensors(of)
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    weight_map = {}
    for shard in range(n_shards):
        name = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        part = {t: v for i, (t, v) in enumerate(tensors.items()) if i % n_shards == shard}
        write_safetensors(folder / name, part, dtype)
        weight_map |= {t: name for t in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


_LAYER_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
                "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
                "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
                "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "block_sparse_moe.gate": "ffn_gate_inp",
                "mlp.gate": "ffn_gate_inp"}
_EXPERT_NAMES = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps", "gate_proj": "ffn_gate_exps",
                 "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
_OUTER_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
                "model.norm.weight": "output_norm.weight"}


def interleave_heads(weight: Array, n_heads: int) -> Array:
    """Rows (i, i + width/2) of each head become neighbours, as RoPE on the pairs (2i, 2i+1) wants them."""
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def gguf_tensors(of: Case) -> dict[str, Array]:
    c = of.settings()
    heads = {"q": c["num_attention_heads"], "k": c["num_key_value_heads"]}
    experts: dict[str, list[Array]] = {}
    out: dict[str, Array] = {}
    for name, values in hf_tensors(of).items():
        if name in _OUTER_NAMES:
            out[_OUTER_NAMES[name]] = values
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        stem, kind = rest.rsplit(".", 1)
        if ".experts." in stem:
            experts.setdefault(f"blk.{layer}.{_EXPERT_NAMES[stem.rsplit('.', 1)[1]]}.weight", []).append(values)
            continue
        if of.architecture == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
            values = interleave_heads(values, heads[stem[10]])
        out[f"blk.{layer}.{_LAYER_NAMES[stem]}.{kind}"] = values
    out |= {name: np.stack(parts) for name, parts in experts.items()}
    if (c.get("rope_scaling") or {}).get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama3_factors(c)
    return out


def llama3_factors(c: dict[str, Any]) -> Array:
    """What converters store for Llama 3.1: divisors of the frequencies."""
    s, width = c["rope_scaling"], c["hidden_size"] // c["num_attention_heads"]
    freqs = c["rope_theta"] ** (-np.arange(0, width, 2) / width)
    turns = s["original_max_position_embeddings"] * freqs / (2 * np.pi)
    kept = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
    return (1 / ((1 - kept) / s["factor"] + kept)).astype(np.float32)


def metadata(of: Case) -> dict[str, Value]:
    c, a = of.settings(), of.architecture
    width = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    usual = {"context_length": _u32(c["max_position_embeddings"]), "embedding_length": _u32(c["hidden_size"]),
             "block_count": _u32(N_LAYERS), "feed_forward_length": _u32(c["intermediate_size"]),
             "attention.head_count": _u32(c["num_attention_heads"]), "attention.head_count_kv": _u32(c["num_key_value_heads"]),
             "attention.key_length": _u32(width), "attention.value_length": _u32(width), "rope.dimension_count": _u32(width),
             "attention.layer_norm_rms_epsilon": _f32(c["rms_norm_eps"]), "rope.freq_base": _f32(c["rope_theta"])}
    return {"general.architecture": _text(a), "general.name": _text(of.name)} | \
        {f"{a}.{key}": value for key, value in (usual | of.keys).items()}


def write_gguf(of: Case, path: Path, dtype: TensorType = TensorType.F32) -> Path:
    """Matrices in `dtype`, vectors and routers in F32."""
    def kind(name: str, values: Array) -> TensorType:
        return TensorType.F32 if values.ndim == 1 or "ffn_gate_inp" in name else dtype

    gguf.write(path, metadata(of), [Tensor.pack(n, v, kind(n, v)) for n, v in gguf_tensors(of).items()])
    return path


def main() -> None:
    out = Path(sys.argv[1])
    for of in CASES:
        write_folder(of, out / of.name)
        write_gguf(of, out / f"{of.name}.gguf")


if __name__ == "__main__":
    main()
