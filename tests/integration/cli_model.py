"""What the tests of the program share: a tiny GGUF model made with the standard library alone, and a way to run the program.

The model has the llama architecture, one layer, float32 weights that follow from a formula, and a byte vocabulary: enough to
run, small enough to be cut at every place.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
from pathlib import Path

CLI = os.environ.get("CONSORT_CLI", "consort")
N_EMBD, N_FF, N_HEADS, N_KV_HEADS, N_CONTEXT = 32, 64, 4, 2, 128
N_VOCAB = 3 + 256
ALIGNMENT = 32
U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _array(kind: int, items: list) -> bytes:
    body = b"".join(_string(i) if kind == STRING else struct.pack("<f" if kind == F32 else "<i", i) for i in items)
    return struct.pack("<IQ", kind, len(items)) + body


def metadata(architecture: str = "llama") -> list[tuple[str, int, bytes]]:
    """(key, value type, encoded value)."""
    u32 = lambda v: struct.pack("<I", v)  # noqa: E731
    a = architecture
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    return [
        ("general.architecture", STRING, _string(architecture)),
        ("general.name", STRING, _string("tiny")),
        (f"{a}.context_length", U32, u32(N_CONTEXT)),
        (f"{a}.embedding_length", U32, u32(N_EMBD)),
        (f"{a}.block_count", U32, u32(1)),
        (f"{a}.feed_forward_length", U32, u32(N_FF)),
        (f"{a}.attention.head_count", U32, u32(N_HEADS)),
        (f"{a}.attention.head_count_kv", U32, u32(N_KV_HEADS)),
        (f"{a}.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        (f"{a}.rope.dimension_count", U32, u32(N_EMBD // N_HEADS)),
        ("tokenizer.ggml.model", STRING, _string("llama")),
        ("tokenizer.ggml.tokens", ARRAY, _array(STRING, pieces)),
        ("tokenizer.ggml.scores", ARRAY, _array(F32, [0.0] * N_VOCAB)),
        ("tokenizer.ggml.token_type", ARRAY, _array(I32, [2, 3, 3] + [6] * 256)),
        ("tokenizer.ggml.bos_token_id", U32, u32(1)),
        ("tokenizer.ggml.eos_token_id", U32, u32(2)),
    ]


def tensor_shapes() -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, outermost dimension first."""
    kv = N_EMBD // N_HEADS * N_KV_HEADS
    return [
        ("token_embd.weight", (N_VOCAB, N_EMBD)),
        ("output_norm.weight", (N_EMBD,)),
        ("output.weight", (N_VOCAB, N_EMBD)),
        ("blk.0.attn_norm.weight", (N_EMBD,)),
        ("blk.0.attn_q.weight", (N_EMBD, N_EMBD)),
        ("blk.0.attn_k.weight", (kv, N_EMBD)),
        ("blk.0.attn_v.weight", (kv, N_EMBD)),
        ("blk.0.attn_output.weight", (N_EMBD, N_EMBD)),
        ("blk.0.ffn_norm.weight", (N_EMBD,)),
        ("blk.0.ffn_gate.weight", (N_FF, N_EMBD)),
        ("blk.0.ffn_up.weight", (N_FF, N_EMBD)),
        ("blk.0.ffn_down.weight", (N_EMBD, N_FF)),
    ]


def gguf(architecture: str = "llama", *, offset_of_last: int | None = None, huge_dims: bool = False,
         vocabulary_only: bool = False) -> bytes:
    """The file. offset_of_last and huge_dims make its last tensor lie: about where it is, or how large it is."""
    shapes = [] if vocabulary_only else tensor_shapes()
    directory, data = b"", b""
    for i, (name, shape) in enumerate(shapes):
        last = i == len(shapes) - 1
        dims = (2**62, 8) if last and huge_dims else shape
        offset = offset_of_last if last and offset_of_last is not None else len(data)
        directory += _string(name) + struct.pack("<I", len(dims))
        directory += b"".join(struct.pack("<Q", d) for d in reversed(dims)) + struct.pack("<IQ", 0, offset)
        scale = 1.0 if len(shape) == 1 else 2.0 / math.sqrt(shape[-1])
        count = math.prod(shape)
        values = [scale * (1.0 if len(shape) == 1 else math.sin(12.9898 * (i + 1) * (j + 1))) for j in range(count)]
        data += struct.pack(f"<{count}f", *values)
        data += b"\0" * (-len(data) % ALIGNMENT)
    keys = metadata(architecture)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys))
    head += b"".join(_string(k) + struct.pack("<I", t) + v for k, t, v in keys) + directory
    return head + b"\0" * (-len(head) % ALIGNMENT) + data


def run(*arguments: str, environment: dict[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
    """Runs the program; bytes that are no UTF-8 are replaced."""
    return subprocess.run([CLI, *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=timeout,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})}, check=False)


def run_json(*arguments: str, **options) -> dict:
    """Runs the program and reads its one JSON object; standard output must hold nothing else."""
    done = run(*arguments, "--json", **options)
    assert done.returncode == 0, f"{arguments}: status {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def device_names() -> list[str]:
    """The devices that are there, in the program's order."""
    return [d["name"] for p in run_json("devices")["plugins"] for d in p["devices"]]


def write_model(folder: Path, **options) -> Path:
    path = folder / "tiny.gguf"
    path.write_bytes(gguf(**options))
    return path
