"""KV caches of fewer bits, whole models: logits against a float64 computation whose K and V rows are rounded as consort/kv.h says,
alone and after a transfer that converts; and what the rounding itself costs against an f32 cache."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

import numpy as np
from program import DEMO_F32, DEMO_Q8_0, consort, consort_json, devices, scratch

import compare
import make_model
import reference
from gguf import GgufFile

# Arithmetic in float32 against float64 gives 1e-13; now and then an element falls to the other side of a middle, which is worth 1e-9.
ROUNDED_LIMIT = 1e-6
# fp8 numbers often lie in the very middle of two steps of int8, x = largest / 2 always: either one is right (consort/kv.h).
CONVERTED_LIMIT = 1e-5
# A layer's rows lose (largest / rms)^2 / (12 * 127^2) of their power in int8, 5e-5 where the largest element is three times the
# usual one, and 2^-8 / 3 = 1.3e-3 at most in fp8. Attention averages over keys, and logits are mostly not of what it adds.
LOSS_LIMITS = {"int8": 1e-4, "fp8": 2e-3}
INT8_MATMUL_LIMIT = 3e-4  # of logits, with int8 activations


def rounded_e4m3(x: np.ndarray) -> np.ndarray:
    magnitude = np.minimum(np.abs(x), 448.0)
    exponent = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1e-30))), -6)
    step = np.exp2(exponent - 3)
    return np.copysign(np.minimum(np.rint(magnitude / step) * step, 448.0), x)


def rounded_int8(x: np.ndarray) -> np.ndarray:
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(x / scale) * scale


def rounded_f16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float64)


ROUND = {"int8": rounded_int8, "fp8": rounded_e4m3, "f16": rounded_f16}


class RoundedReference(reference.Reference):
    """A reference whose cache holds rows of `dtype`: rounded once, when they are written."""

    def __init__(self, file: GgufFile, dtype: str) -> None:
        super().__init__(file)
        self.round = ROUND[dtype]

    def convert(self, dtype: str) -> None:
        """What is in the cache goes to one of another format, as what comes later does."""
        self.round = ROUND[dtype]
        self._keys = [self.round(rows) for rows in self._keys]
        self._values = [self.round(rows) for rows in self._values]

    def _cached(self, rows: np.ndarray) -> np.ndarray:
        return self.round(rows)


class KvDtypeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.models: list[tuple[Path, list[int]]] = []
        options = ["--heads 4 --kv-heads 2 --head-dim 32", "--heads 8 --kv-heads 8 --head-dim 8", "--heads 2 --kv-heads 1 --head-dim 80"]
        for index, chosen in enumerate(options):
            path = scratch() / f"kv-{index}.gguf"
            make_model.main([str(path), *chosen.split(), "--dtype", "f32"])
            cls.models.append((path, [(7 * i + index) % 320 for i in range(41)]))

    def logits(self, path: Path, tokens: list[int], *arguments: object) -> np.ndarray:
        out = scratch() / "logits.npy"
        done = consort("logits", path, "--tokens", ",".join(map(str, tokens)), "-o", out, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return np.load(out)

    def devices_with(self, dtype: str) -> list[str]:
        names = {"int8": "i8", "fp8": "f8_e4m3"}
        plugins = consort_json("devices")["plugins"]
        can = {d["name"] for p in plugins for d in p.get("devices", []) if names[dtype] in d["kv_dtypes"]}
        return [name for name in devices() if name in can]

    def test_logits_are_those_of_a_rounded_cache(self) -> None:
        for dtype in ("int8", "fp8"):
            self.assertIn("cpu:0", self.devices_with(dtype))
            for path, tokens in self.models:
                expected = RoundedReference(GgufFile.open(path), dtype).forward(tokens)
                exact = reference.Reference(GgufFile.open(path)).forward(tokens)
                for device in self.devices_with(dtype):
                    with self.subTest(dtype=dtype, model=path.name, device=device):
                        found = self.logits(path, tokens, "--device", device, "--kv-dtype", dtype)
                        rounded = compare.compare(found, expected, ROUNDED_LIMIT)
                        loss = compare.compare(found, exact, LOSS_LIMITS[dtype])
                        print(f"{dtype} {path.name} {device}: NMSE {rounded.nmse:.1e} of a rounded cache, {loss.nmse:.1e} of an exact one")
                        self.assertLessEqual(rounded.nmse, ROUNDED_LIMIT)
                        self.assertEqual(rounded.n_wrong, 0)
                        self.assertLessEqual(loss.nmse, LOSS_LIMITS[dtype])
                        self.assertGreater(loss.nmse, 20 * rounded.nmse)
                        self.assertEqual(loss.n_wrong, 0)

    def test_transfers_keep_what_was_rounded(self) -> None:
        """Rows after the split read K and V that the other device wrote and the wire carried."""
        for dtype in ("int8", "fp8"):
            for path, tokens in self.models[:2]:
                expected = RoundedReference(GgufFile.open(path), dtype).forward(tokens)
                for prefill in self.devices_with(dtype):
                    for decode in self.devices_with(dtype):
                        if prefill == decode:
                            continue
                        with self.subTest(dtype=dtype, prefill=prefill, decode=decode):
                            found = self.logits(path, tokens, "--prefill", prefill, "--decode", decode, "--split", 17,
                                                "--kv-dtype", dtype)
                            result = compare.compare(found, expected, ROUNDED_LIMIT)
                            self.assertLessEqual(result.nmse, ROUNDED_LIMIT)
                            self.assertEqual(result.n_wrong, 0)

    def test_formats_are_converted_between_the_stages(self) -> None:
        """Rows of the prompt are rounded on the one device, and again on the way to the other."""
        path, tokens = self.models[0]
        split, able = 17, self.devices_with("int8")
        for first, second in (("f16", "int8"), ("int8", "f16"), ("fp8", "int8"), ("int8", "fp8"), ("f16", "fp8")):
            rounded = RoundedReference(GgufFile.open(path), first)
            rounded.forward(tokens[:split])
            rounded.convert(second)
            expected = rounded.forward(tokens[split:])
            for prefill in able:
                for decode in able:
                    if prefill == decode:
                        continue
                    with self.subTest(first=first, second=second, prefill=prefill, decode=decode):
                        found = self.logits(path, tokens, "--prefill", prefill, "--decode", decode, "--split", split,
                                            "--prefill-kv-dtype", first, "--kv-dtype", second)[split:]
                        result = compare.compare(found, expected, CONVERTED_LIMIT)
                        self.assertLessEqual(result.nmse, CONVERTED_LIMIT)
                        self.assertEqual(result.n_wrong, 0)

    def test_a_device_without_the_format_says_so_or_has_another(self) -> None:
        """The simulated NPU has KV in f32 and f16, and matmuls in int8: its own ops on KV go to the host, with the reason in one
        line, or it keeps f16 and the host turns that into int8 on the way."""
        development = Path(os.environ["CONSORT_TEST_BUILD"], "lib/consort/plugins-development")
        if not (development / "consort-npu-sim.so").exists():
            self.skipTest("this build has no simulated NPU")
        env = {"CONSORT_PLUGIN_PATH": str(development)}
        tokens, out = list(range(5, 45)), scratch() / "npu.npy"
        expected = reference.Reference(GgufFile.open(DEMO_Q8_0)).forward(tokens)
        for more, falls_back in (([], True), (["--prefill-kv-dtype", "f16"], False)):
            done = consort("logits", DEMO_Q8_0, "--tokens", ",".join(map(str, tokens)), "--prefill", "npu-sim:0", "--decode", "cpu:0",
                           "--split", 17, "--kv-dtype", "int8", *more, "-o", out, env=env)
            self.assertEqual(done.returncode, 0, done.stderr)
            lines = [line for line in done.stderr.splitlines() if "kv_write" in line]
            self.assertEqual(bool(lines), falls_back, done.stderr)
            self.assertTrue(all("KV is F32 or F16" in line for line in lines), done.stderr)
            result = compare.compare(np.load(out), expected, INT8_MATMUL_LIMIT + LOSS_LIMITS["int8"])
            self.assertLessEqual(result.nmse, INT8_MATMUL_LIMIT + LOSS_LIMITS["int8"])
            self.assertEqual(result.n_wrong, 0)

    def test_the_demo_model_keeps_its_answer(self) -> None:
        """Teacher-forced: the likeliest token of an int8 cache is that of f32 outside near ties, on the prompt's every position."""
        prompt = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak."
        tokens = [t["id"] for t in consort_json("tokenize", DEMO_F32, prompt)["tokens"]]
        exact = reference.Reference(GgufFile.open(DEMO_F32)).forward(tokens)
        for dtype in ("int8", "fp8"):
            found = self.logits(DEMO_F32, tokens, "--device", "cpu:0", "--kv-dtype", dtype)
            result = compare.compare(found, exact, LOSS_LIMITS[dtype])
            print(f"demo model, {dtype}: NMSE {result.nmse:.1e}")
            self.assertLessEqual(result.nmse, LOSS_LIMITS[dtype])
            self.assertEqual(result.n_wrong, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
