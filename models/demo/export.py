"""Writes a checkpoint of train.py as GGUF: consort-demo-f32.gguf and its twin consort-demo-q8_0.gguf.

    python3 export.py CHECKPOINT.pt FOLDER

The twin's matrices are the same floats quantized to Q8_0; its norms stay F32.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import bpe

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import gguf  # noqa: E402
from gguf import Tensor, TensorType, Value, ValueType  # noqa: E402


def metadata(checkpoint: dict[str, Any]) -> dict[str, Value]:
    config, vocabulary = checkpoint["config"], bpe.Vocabulary(checkpoint["pieces"])
    return {
        "general.architecture": gguf.string("llama"),
        "general.name": gguf.string("Consort demo"),
        "general.description": gguf.string("A two-million-parameter model of Shakespeare's plays, for demonstrations and tests"),
        "general.license": gguf.string("cc0-1.0"),
        "general.alignment": gguf.u32(gguf.DEFAULT_ALIGNMENT),
        "llama.context_length": gguf.u32(config["context"]),
        "llama.embedding_length": gguf.u32(config["embd"]),
        "llama.block_count": gguf.u32(config["layers"]),
        "llama.feed_forward_length": gguf.u32(config["ffn"]),
        "llama.attention.head_count": gguf.u32(config["heads"]),
        "llama.attention.head_count_kv": gguf.u32(config["kv_heads"]),
        "llama.attention.layer_norm_rms_epsilon": gguf.f32(config["rms_eps"]),
        "llama.rope.dimension_count": gguf.u32(config["embd"] // config["heads"]),
        "llama.rope.freq_base": gguf.f32(config["rope_base"]),
        "llama.vocab_size": gguf.u32(config["vocab"]),
        "tokenizer.ggml.model": gguf.string("llama"),
        "tokenizer.ggml.tokens": gguf.array(ValueType.STRING, vocabulary.pieces),
        "tokenizer.ggml.scores": gguf.array(ValueType.F32, vocabulary.scores),
        "tokenizer.ggml.token_type": gguf.array(ValueType.I32, vocabulary.types),
        "tokenizer.ggml.bos_token_id": gguf.u32(bpe.BOS),
        "tokenizer.ggml.eos_token_id": gguf.u32(bpe.EOS),
        "tokenizer.ggml.unknown_token_id": gguf.u32(bpe.UNKNOWN),
        "tokenizer.ggml.add_bos_token": gguf.boolean(True),
        "tokenizer.ggml.add_eos_token": gguf.boolean(False),
        "tokenizer.ggml.add_space_prefix": gguf.boolean(True),
    }


def tensors(weights: dict[str, torch.Tensor], matrix_type: TensorType) -> list[Tensor]:
    return [Tensor.pack(name, weight.numpy(), matrix_type if weight.dim() == 2 else TensorType.F32)
            for name, weight in weights.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="last.pt or best.pt of train.py")
    parser.add_argument("folder", type=Path, help="where the two files go")
    args = parser.parse_args()
    try:
        checkpoint = torch.load(args.checkpoint, map_location="cpu")
        for type in (TensorType.F32, TensorType.Q8_0):
            path = args.folder / f"consort-demo-{type.name.lower()}.gguf"
            gguf.write(path, metadata(checkpoint), tensors(checkpoint["weights"], type))
            print(f"{path}: {path.stat().st_size} bytes")
    except OSError as error:
        sys.exit(f"export.py: error: {error}")
    print(json.dumps(checkpoint["record"]))


if __name__ == "__main__":
    main()
