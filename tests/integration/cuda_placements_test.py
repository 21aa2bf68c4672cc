"""Whole models through the CUDA plugin's host side and kernels, over the fake driver (tests/cuda_driver): the kernels
run on the CPU, no GPU is involved. Tokens are exact on F32 files, alone and with the KV cache moved to and from cpu:0."""

from __future__ import annotations

import unittest

import numpy as np
from program import DEMO_F32, DEMO_Q8_0, consort, consort_json, scratch, stories

import compare
import reference
from gguf import GgufFile

STORY = ", there was a little girl named Lily."
PLACEMENTS = [("cuda:0", "cuda:0"), ("cuda:0", "cpu:0"), ("cpu:0", "cuda:0")]


class CudaPlacementsTest(unittest.TestCase):
    def run_on(self, model: object, prompt: str, n_tokens: int, prefill: str, decode: str, *more: object) -> dict:
        result = consort_json("run", model, "-p", prompt, "-n", n_tokens, "--temp", 0, "--prefill", prefill, "--decode",
                              decode, *more)
        self.assertEqual((result["prefill"]["device"], result["decode"]["device"]), (prefill, decode))
        self.assertEqual(result["fallbacks"], [])
        if prefill != decode:
            self.assertGreater(result["kv_transfer"]["bytes"], 0)
            self.assertTrue(result["kv_transfer"]["verified"])
        return result

    def test_the_device_is_called_a_fake(self) -> None:
        plugins = consort_json("devices")["plugins"]
        found = [d for p in plugins for d in p.get("devices", []) if d["name"] == "cuda:0"]
        self.assertEqual(len(found), 1)
        self.assertIn("fake", str(found[0]))

    def test_the_known_story_goes_on_alike(self) -> None:
        model = stories()
        if not model:
            self.skipTest("CONSORT_TEST_DATA names no folder with models/stories260K.gguf")
        expected = self.run_on_cpu(model, "Once upon a time", 24)
        for prefill, decode in PLACEMENTS:
            with self.subTest(prefill=prefill, decode=decode):
                result = self.run_on(model, "Once upon a time", 24, prefill, decode, "--kv-dtype", "f32")
                self.assertTrue(result["text"].startswith(STORY), result["text"])
                self.assertEqual(result["tokens"], expected)

    def run_on_cpu(self, model: object, prompt: str, n_tokens: int) -> list[int]:
        return consort_json("run", model, "-p", prompt, "-n", n_tokens, "--temp", 0, "--prefill", "cpu:0", "--decode",
                            "cpu:0", "--kv-dtype", "f32")["tokens"]

    def test_the_f32_demo_model_gives_the_reference_tokens(self) -> None:
        prompt = "First Citizen:\nBefore we proceed any further"
        ids = [t["id"] for t in consort_json("tokenize", DEMO_F32, prompt)["tokens"]]
        expected = reference.greedy(reference.Reference(GgufFile.open(DEMO_F32)), ids, 8)
        for prefill, decode in PLACEMENTS:
            with self.subTest(prefill=prefill, decode=decode):
                result = self.run_on(DEMO_F32, prompt, 8, prefill, decode, "--kv-dtype", "f32")
                self.assertEqual(result["tokens"], expected[: len(result["tokens"])])

    def test_the_q8_0_demo_model_runs_on_a_16_bit_cache(self) -> None:
        for kv_dtype in ("f16", "bf16"):
            result = self.run_on(DEMO_Q8_0, "ROMEO:\nBut soft, what light through yonder window", 4, "cuda:0", "cpu:0",
                                 "--kv-dtype", kv_dtype)
            self.assertEqual(len(result["tokens"]), 4)

    def test_caches_of_8_bits_lose_what_they_lose_on_the_cpu(self) -> None:
        prompt, n_split = list(range(7, 7 + 24)), 17
        exact = self.logits(prompt, "--device", "cpu:0")
        for kv_dtype, limit in (("int8", 1e-4), ("fp8", 2e-3)):  # as in kv_dtype_test.py
            alone = self.logits(prompt, "--device", "cpu:0", "--kv-dtype", kv_dtype)
            for prefill, decode in PLACEMENTS:
                with self.subTest(kv_dtype=kv_dtype, prefill=prefill, decode=decode):
                    where = ["--device", prefill] if prefill == decode else ["--prefill", prefill, "--decode", decode,
                                                                            "--split", n_split]
                    found = self.logits(prompt, *where, "--kv-dtype", kv_dtype)
                    self.assertLess(compare.compare(found, exact, limit).nmse, limit)
                    # Halves of tensor cores, and elements that fall to the other side of a middle.
                    self.assertLess(compare.compare(found, alone, 2e-5).nmse, 2e-5)

    def logits(self, tokens: list[int], *arguments: object) -> np.ndarray:
        out = scratch() / "logits.npy"
        done = consort("logits", DEMO_F32, "--tokens", ",".join(map(str, tokens)), "-o", out, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return np.load(out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
