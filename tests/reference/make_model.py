"""Writes a llama-architecture GGUF file of seeded random weights, or of a vocabulary alone.

    python3 make_model.py OUT.gguf --seed 7 --layers 2 --embd 64 --heads 4 --kv-heads 2 --dtype q8_0

Matrices have standard deviation 1/sqrt(fan-in) and norms lie near 1, so that activations and logits are of order one. Vectors are F32, matrices
`--dtype`. The "llama" tokenizer holds <unk>, <s>, </s>, 256 byte tokens and filler pieces: "▁", letters, then words of two and three.
"""

from __future__ import annotations

import argparse
import itertools
import string
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import gguf  # noqa: E402
from gguf import Tensor, TensorType, Value, ValueType  # noqa: E402

N_SPECIAL = 3 + 256
SPACE = "\u2581"


def tokenizer_metadata(n_vocab: int) -> dict[str, Value]:
    """A "llama" tokenizer of `n_vocab` distinct pieces, at least 259."""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    letters = SPACE + string.ascii_lowercase
    words = ("".join(w) for n in itertools.count(1) for w in itertools.product(letters, repeat=n) if SPACE not in w[1:])
    pieces += itertools.islice(words, n_vocab - N_SPECIAL)
    scores = [0.0] * N_SPECIAL + [-float(i) for i in range(n_vocab - N_SPECIAL)]
    types = [2, 3, 3] + [6] * 256 + [1] * (n_vocab - N_SPECIAL)
    return {
        "tokenizer.ggml.model": gguf.string("llama"),
        "tokenizer.ggml.tokens": gguf.array(ValueType.STRING, pieces),
        "tokenizer.ggml.scores": gguf.array(ValueType.F32, scores),
        "tokenizer.ggml.token_type": gguf.array(ValueType.I32, types),
        "tokenizer.ggml.bos_token_id": gguf.u32(1),
        "tokenizer.ggml.eos_token_id": gguf.u32(2),
        "tokenizer.ggml.unknown_token_id": gguf.u32(0),
        "tokenizer.ggml.add_bos_token": gguf.boolean(True),
        "tokenizer.ggml.add_eos_token": gguf.boolean(False),
        "tokenizer.ggml.add_space_prefix": gguf.boolean(True),
    }


def model_metadata(args: argparse.Namespace) -> dict[str, Value]:
    metadata = {
        "general.architecture": gguf.string("llama"),
        "general.name": gguf.string(f"random-{args.seed}"),
        "general.alignment": gguf.u32(args.alignment),
        "llama.context_length": gguf.u32(args.context),
        "llama.embedding_length": gguf.u32(args.embd),
        "llama.block_count": gguf.u32(args.layers),
        "llama.feed_forward_length": gguf.u32(args.ffn),
        "llama.attention.head_count": gguf.u32(args.heads),
        "llama.attention.head_count_kv": gguf.u32(args.kv_heads),
        "llama.attention.layer_norm_rms_epsilon": gguf.f32(args.eps),
        "llama.rope.dimension_count": gguf.u32(args.rope_dim),
        "llama.rope.freq_base": gguf.f32(args.rope_base),
        "llama.vocab_size": gguf.u32(args.vocab),
    }
    if args.head_dim * args.heads != args.embd:
        metadata["llama.attention.key_length"] = gguf.u32(args.head_dim)
        metadata["llama.attention.value_length"] = gguf.u32(args.head_dim)
    return metadata | tokenizer_metadata(args.vocab)


def model_tensors(args: argparse.Namespace) -> list[Tensor]:
    """All tensors in the usual order; the values depend on the seed and the sizes, not on the dtype."""
    rng = np.random.default_rng(args.seed)
    dtype = TensorType[args.dtype.upper()]

    def matrix(name: str, n_out: int, n_in: int, scale: float = 1.0) -> Tensor:
        values = rng.standard_normal((n_out, n_in)) * (scale / np.sqrt(n_in))
        return Tensor.pack(f"{name}.weight", values, dtype)

    def vector(name: str, values: NDArray[np.float64]) -> Tensor:
        return Tensor.pack(f"{name}.weight", values, TensorType.F32)

    def norm(name: str) -> Tensor:
        return vector(name, 1.0 + 0.2 * rng.standard_normal(args.embd))

    q_width, kv_width = args.heads * args.head_dim, args.kv_heads * args.head_dim
    # Tied embeddings are also the output matrix, which wants 1/sqrt(fan-in); untied ones have elements of order one.
    embedding_scale = args.scale_embeddings * (1.0 if args.tied else np.sqrt(args.embd))
    tensors = [matrix("token_embd", args.vocab, args.embd, embedding_scale)]
    for i in range(args.layers):
        tensors += [norm(f"blk.{i}.attn_norm"),
                    matrix(f"blk.{i}.attn_q", q_width, args.embd),
                    matrix(f"blk.{i}.attn_k", kv_width, args.embd),
                    matrix(f"blk.{i}.attn_v", kv_width, args.embd),
                    matrix(f"blk.{i}.attn_output", args.embd, q_width),
                    norm(f"blk.{i}.ffn_norm"),
                    matrix(f"blk.{i}.ffn_gate", args.ffn, args.embd),
                    matrix(f"blk.{i}.ffn_up", args.ffn, args.embd),
                    matrix(f"blk.{i}.ffn_down", args.embd, args.ffn)]
    tensors.append(norm("output_norm"))
    if not args.tied:
        tensors.append(matrix("output", args.vocab, args.embd))
    if args.rope_freqs:
        tensors.append(vector("rope_freqs", 1.0 + 7.0 * rng.random(args.rope_dim // 2)))
    return tensors


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--embd", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, help="may differ from embd / heads, which is the default")
    parser.add_argument("--ffn", type=int, default=160)
    parser.add_argument("--vocab", type=int, default=320, help=f"at least {N_SPECIAL}")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", choices=[t.name.lower() for t in gguf.VALUE_TYPES], default="f32", help="of matrices")
    parser.add_argument("--eps", type=float, default=1e-5, help="of the RMS norms")
    parser.add_argument("--scale-embeddings", type=float, default=1.0, help="small embeddings make --eps show in the logits")
    parser.add_argument("--tied", action="store_true", help="no output.weight: the embeddings serve")
    parser.add_argument("--rope-base", type=float, default=10000.0)
    parser.add_argument("--rope-dim", type=int, help="elements of a head that are turned; default head-dim")
    parser.add_argument("--rope-freqs", action="store_true", help="add rope_freqs.weight, divisors of the RoPE rates")
    parser.add_argument("--alignment", type=int, default=gguf.DEFAULT_ALIGNMENT)
    parser.add_argument("--vocab-only", action="store_true", help="write the metadata and no tensors")
    args = parser.parse_args(arguments)
    for name in ("layers", "embd", "heads", "kv_heads", "ffn", "context"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.vocab < N_SPECIAL:
        parser.error(f"--vocab must be at least {N_SPECIAL}: three control and 256 byte tokens")
    if args.heads % args.kv_heads:
        parser.error("--heads must be a multiple of --kv-heads")
    if args.head_dim is None and args.embd % args.heads:
        parser.error("--embd is not a multiple of --heads: give --head-dim")
    args.head_dim = args.head_dim or args.embd // args.heads
    args.rope_dim = args.rope_dim or args.head_dim
    if args.rope_dim % 2 or not 0 < args.rope_dim <= args.head_dim:
        parser.error("--rope-dim must be even and at most --head-dim")
    if args.alignment < 1 or args.alignment & (args.alignment - 1):
        parser.error("--alignment must be a power of two")
    if args.dtype in ("q8_0", "q4_0") and (args.embd % 32 or args.ffn % 32 or args.heads * args.head_dim % 32):
        parser.error(f"--dtype {args.dtype} needs --embd, --ffn and heads * head-dim to be multiples of 32")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    try:
        gguf.write(args.out, model_metadata(args), [] if args.vocab_only else model_tensors(args))
    except OSError as error:
        sys.exit(f"make_model.py: error: {error}")


if __name__ == "__main__":
    main()
