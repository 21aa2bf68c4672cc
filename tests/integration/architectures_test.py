"""Every architecture against logits of the `transformers` library (tests/data/golden) and against the float64 reference."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

import numpy as np
from program import SOURCE, consort, devices, scratch

import compare
import golden
import hf_models
import reference
from gguf import GgufFile, TensorType

GOLDEN_LIMIT, FLOAT64_LIMIT = 1e-6, 1e-8
DEVELOPMENT = {"CONSORT_PLUGIN_PATH": os.environ["CONSORT_TEST_BUILD"] + "/lib/consort/plugins-development"}
TOKENS = hf_models.tokens()


def logits(model: Path, where: list[str], tokens: list[int] = TOKENS, env: dict[str, str] | None = None) -> np.ndarray:
    out = scratch() / "logits.npy"
    done = consort("logits", model, "--tokens", ",".join(map(str, tokens)), *where, "-o", out, env=env)
    assert done.returncode == 0, f"{model.name} {where}: {done.stderr}"
    return np.load(out)


class ArchitecturesTest(unittest.TestCase):
    def check(self, case: hf_models.Case, model: Path, expected: np.ndarray, where: list[str], env: dict[str, str] | None = None,
              limit: float = FLOAT64_LIMIT) -> None:
        found = logits(model, where, env=env)
        own = compare.compare(found, expected, limit)
        theirs = compare.compare(found[golden.ROWS], np.load(SOURCE / "tests/data/golden" / f"{case.name}.npy"), GOLDEN_LIMIT)
        print(f"{model.name:22} {' '.join(where):42} NMSE {own.nmse:.1e} of float64, {theirs.nmse:.1e} of transformers")
        self.assertLessEqual(own.nmse, limit)
        self.assertLessEqual(theirs.nmse, max(limit, GOLDEN_LIMIT))
        self.assertEqual(own.n_wrong, 0)

    def test_gguf_files_agree_with_transformers_and_float64(self) -> None:
        for case in hf_models.CASES:
            with self.subTest(case=case.name):
                model = hf_models.write_gguf(case, scratch() / f"{case.name}.gguf")
                self.check(case, model, reference.Reference(GgufFile.open(model)).forward(TOKENS), ["--device", "cpu:0"])

    def test_windows_and_experts_work_on_every_placement(self) -> None:
        for name in ("mistral", "qwen3moe"):
            case = hf_models.case(name)
            model = hf_models.write_gguf(case, scratch() / f"{name}.gguf")
            expected = reference.Reference(GgufFile.open(model)).forward(TOKENS)
            for prefill in devices():
                for decode in devices():
                    where = ["--device", prefill] if prefill == decode else \
                        ["--prefill", prefill, "--decode", decode, "--split", "509"]
                    with self.subTest(model=name, where=where):
                        self.check(case, model, expected, where)

    def test_a_simulated_npu_prefills_windows_and_experts(self) -> None:
        """Its matmuls are Q8_0's alone, so that experts and routers fall back to the CPU."""
        for name in ("mistral", "qwen3moe"):
            case = hf_models.case(name)
            model = hf_models.write_gguf(case, scratch() / f"{name}-q8_0.gguf", TensorType.Q8_0)
            expected = reference.Reference(GgufFile.open(model)).forward(TOKENS[:100])
            for where in (["--device", "npu-sim:0"], ["--prefill", "npu-sim:0", "--decode", "cpu:0", "--split", "97"]):
                with self.subTest(model=name, where=where):
                    found = compare.compare(logits(model, where, TOKENS[:100], DEVELOPMENT), expected, 5e-4)
                    print(f"{name:22} {' '.join(where):42} NMSE {found.nmse:.1e}")
                    self.assertLessEqual(found.nmse, 5e-4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
