"""`consort logits` against the float64 reference, on every device and over both orders of every pair."""

from __future__ import annotations

import unittest
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from program import RANDOM, SEED, consort, devices, scratch

import compare
import make_model
import reference
from gguf import GgufFile

N_VOCAB = 320
LIMITS = {"f32": 1e-6, "f16": 1e-6, "bf16": 5e-5, "q8_0": 3e-4, "q4_0": 3e-4}
CPU_F32_LIMIT = 1e-9


@dataclass(frozen=True)
class Case:
    """A random model, described by make_model.py's options, and a prompt of n_tokens."""

    options: str
    n_tokens: int
    dtype: str = "f32"


CASES = [
    Case("--heads 4 --kv-heads 2", 1),
    Case("--heads 4 --kv-heads 2 --scale-embeddings 0.002 --eps 1e-4", 2),
    Case("--heads 8 --kv-heads 8 --head-dim 8", 15),
    Case("--heads 8 --kv-heads 1 --head-dim 16 --tied", 16),
    Case("--heads 2 --kv-heads 1 --head-dim 256", 17),
    Case("--heads 6 --kv-heads 2 --head-dim 10 --embd 75 --ffn 101 --vocab 331", 17),
    Case("--heads 4 --kv-heads 4 --head-dim 128 --rope-base 500000 --rope-freqs", 33),
    Case("--heads 4 --kv-heads 1 --head-dim 32 --rope-dim 16 --context 512", 300),
    Case("--heads 4 --kv-heads 2", 17, "f16"),
    Case("--heads 6 --kv-heads 2 --head-dim 10 --embd 75 --ffn 101", 16, "bf16"),
    Case("--heads 4 --kv-heads 2 --context 512", 300, "bf16"),
    Case("--heads 4 --kv-heads 2 --embd 256 --ffn 512", 15, "q8_0"),
    Case("--heads 4 --kv-heads 2 --embd 128 --ffn 352 --tied --context 512", 300, "q8_0"),
    Case("--heads 8 --kv-heads 2 --head-dim 32 --embd 256 --ffn 512", 17, "q4_0"),
]


def drawn_case() -> Case:
    """A shape drawn at random; blocks of 32 need multiples of 32."""
    dtype = RANDOM.choice(["f32", "f32", "bf16", "q8_0", "q4_0"])
    ratio, n_kv_heads = RANDOM.choice([1, 2, 4, 8]), RANDOM.randint(1, 3)
    head_dim = RANDOM.choice([8, 24, 32, 64, 80]) if dtype in ("f32", "bf16") else 32
    step = 1 if dtype in ("f32", "bf16") else 32
    return Case(f"--seed {RANDOM.randint(0, 9999)} --heads {ratio * n_kv_heads} --kv-heads {n_kv_heads} --head-dim {head_dim} "
                f"--embd {step * RANDOM.randint(64 // step, 192 // step)} --ffn {step * RANDOM.randint(64 // step, 256 // step)} "
                f"--layers {RANDOM.randint(1, 4)}", RANDOM.randint(1, 80), dtype)


class LogitsTest(unittest.TestCase):
    def setUp(self) -> None:
        print(f"seed {SEED} (CONSORT_TEST_SEED repeats it)")

    def limit(self, case: Case, device_names: list[str]) -> float:
        """The limit of the issue: tighter where only host cores compute in float32."""
        only_host = all(name.startswith("cpu:") for name in device_names)
        return CPU_F32_LIMIT if case.dtype == "f32" and only_host else LIMITS[case.dtype]

    def make(self, case: Case, index: int) -> tuple[Path, list[int], np.ndarray]:
        path = scratch() / f"case-{index}.gguf"
        make_model.main([str(path), *case.options.split(), "--dtype", case.dtype])
        tokens = [RANDOM.randrange(N_VOCAB) for _ in range(case.n_tokens)]
        return path, tokens, reference.Reference(GgufFile.open(path)).forward(tokens)

    def check(self, case: Case, path: Path, tokens: list[int], expected: np.ndarray, *arguments: object) -> None:
        out = scratch() / "logits.npy"
        done = consort("logits", path, "--tokens", ",".join(map(str, tokens)), "-o", out, *arguments)
        self.assertEqual(done.returncode, 0, f"{case} {arguments}: {done.stderr}")
        names = [str(a) for a in arguments if ":" in str(a)]
        limit = self.limit(case, names)
        found = compare.compare(np.load(out), expected, limit)
        print(f"{case.dtype:5} {case.n_tokens:4} tokens {' '.join(map(str, arguments)):48} NMSE {found.nmse:.2e}")
        self.assertLessEqual(found.nmse, limit, f"{case} {arguments}")
        self.assertEqual(found.n_wrong, 0, f"{case} {arguments}: argmax differs outside near ties")

    def test_every_device_agrees_with_the_float64_reference(self) -> None:
        for index, case in enumerate([*CASES, *(drawn_case() for _ in range(4))]):
            path, tokens, expected = self.make(case, index)
            for device in devices():
                with self.subTest(case=case, device=device):
                    self.check(case, path, tokens, expected, "--device", device)

    def test_rows_after_a_transfer_agree_at_every_split(self) -> None:
        if len(devices()) < 2:
            self.skipTest("needs two devices")
        for index, case in enumerate([Case("--heads 4 --kv-heads 2", 40), Case("--heads 8 --kv-heads 2 --head-dim 24", 18)]):
            path, tokens, expected = self.make(case, 100 + index)
            for prefill in devices():
                for decode in devices():
                    if prefill == decode:
                        continue
                    for split in (1, 15, 16, 17, case.n_tokens - 1):
                        with self.subTest(prefill=prefill, decode=decode, split=split):
                            self.check(case, path, tokens, expected, "--prefill", prefill, "--decode", decode, "--split", split)


if __name__ == "__main__":
    unittest.main(verbosity=2)
