"""One model over every ordered pair of devices: the same tokens, the KV cache moved and verified."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import unittest
from pathlib import Path

import numpy as np
from program import DEMO_F32, DEMO_Q8_0, consort, consort_json, devices, scratch, stories

import reference
from gguf import GgufFile

STORY = (", there was a little girl named Lily. She loved to play outside in the park. "
         "One day, she saw a big, red ball.")
INT8_NMSE_LIMIT = 3e-4  # of whole-model logits with int8 activations


def placements() -> list[tuple[str, str]]:
    return list(itertools.product(devices(), repeat=2))


class PlacementsTest(unittest.TestCase):
    def run_on(self, model: Path, prompt: str, n_tokens: int, prefill: str, decode: str, *more: object,
               env: dict[str, str] | None = None) -> dict:
        return consort_json("run", model, "-p", prompt, "-n", n_tokens, "--temp", 0, "--prefill", prefill,
                            "--decode", decode, *more, env=env)

    def check_transfer(self, result: dict, prefill: str, decode: str) -> None:
        transfer = result["kv_transfer"]
        if prefill == decode:
            self.assertEqual(transfer["bytes"], 0)
        else:
            self.assertGreater(transfer["bytes"], 0)
            self.assertTrue(transfer["verified"])
        self.assertEqual((result["prefill"]["device"], result["decode"]["device"]), (prefill, decode))

    def test_the_known_story_goes_on_alike_everywhere(self) -> None:
        model = stories()
        if not model:
            self.skipTest("CONSORT_TEST_DATA names no folder with models/stories260K.gguf")
        tokens = set()
        for prefill, decode in placements():
            with self.subTest(prefill=prefill, decode=decode):
                result = self.run_on(model, "Once upon a time", 64, prefill, decode)
                self.assertTrue(result["text"].startswith(STORY), result["text"])
                self.check_transfer(result, prefill, decode)
                tokens.add(tuple(result["tokens"]))
        self.assertEqual(len(tokens), 1)

    def test_the_f32_demo_model_gives_the_reference_tokens_everywhere(self) -> None:
        file = GgufFile.open(DEMO_F32)
        prompt = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak."
        ids = [t["id"] for t in consort_json("tokenize", DEMO_F32, prompt)["tokens"]]
        expected = reference.greedy(reference.Reference(file), ids, 48)
        for prefill, decode in placements():
            with self.subTest(prefill=prefill, decode=decode):
                result = self.run_on(DEMO_F32, prompt, 48, prefill, decode, "--kv-dtype", "f32")
                self.assertEqual(result["tokens"], expected[: len(result["tokens"])])
                self.check_transfer(result, prefill, decode)

    def check_teacher_forced(self, pairs: list[tuple[str, str]], env: dict[str, str] | None = None) -> None:
        """Each device reads the same tokens, and its argmax may differ from the float64 one only where the reference's
        top two lie closer than 6 sqrt(limit) RMS(logits)."""
        file = GgufFile.open(DEMO_Q8_0)
        prompt = "ROMEO:\nBut soft, what light through yonder window breaks?\n"
        ids = [t["id"] for t in consort_json("tokenize", DEMO_Q8_0, prompt)["tokens"]]
        model = reference.Reference(file)
        forced = ids + reference.greedy(model, ids, 48)
        model.forget()
        expected = model.forward(forced)
        threshold = 6 * math.sqrt(INT8_NMSE_LIMIT) * math.sqrt(float(np.mean(expected**2)))
        second, first = np.partition(expected, -2, axis=-1)[:, -2:].T
        for prefill, decode in pairs:
            with self.subTest(prefill=prefill, decode=decode):
                out = scratch() / "forced.npy"
                where = ["--device", prefill] if prefill == decode else ["--prefill", prefill, "--decode", decode,
                                                                           "--split", len(ids) - 1]
                done = consort("logits", DEMO_Q8_0, "--tokens", ",".join(map(str, forced)), "-o", out, *where, env=env)
                self.assertEqual(done.returncode, 0, done.stderr)
                logits = np.load(out)
                differs = logits.argmax(axis=-1) != expected.argmax(axis=-1)
                nmse = float(np.sum((logits - expected) ** 2) / np.sum(expected**2))
                print(f"{prefill} -> {decode}: NMSE {nmse:.1e}, {differs.sum()} of {len(forced)} rows differ, "
                      f"{(first - second < threshold).sum()} near ties")
                self.assertLessEqual(nmse, INT8_NMSE_LIMIT)
                self.assertFalse(np.any(differs & (first - second >= threshold)))

    def test_the_q8_0_demo_model_agrees_outside_near_ties(self) -> None:
        self.check_teacher_forced(placements())

    def test_a_simulated_npu_of_recorded_programs_takes_either_stage(self) -> None:
        env = {"CONSORT_PLUGIN_PATH": os.environ["CONSORT_TEST_BUILD"] + "/lib/consort/plugins-development"}
        npu = "npu-sim:0"
        self.check_teacher_forced([(npu, npu), (npu, "cpu:0"), ("cpu:0", npu)], env)
        alone = self.run_on(DEMO_Q8_0, "ROMEO:\n", 8, npu, npu, env=env)
        ops = {f["op"]: f["device"] for f in alone["fallbacks"]}
        self.assertEqual(ops, {"gather_rows": "cpu:0", "argmax": "cpu:0"})

    def test_sampling_with_a_seed_repeats_on_every_placement_of_f32(self) -> None:
        texts = set()
        for prefill, decode in placements():
            result = consort_json("run", DEMO_F32, "-p", "HAMLET:\n", "-n", 24, "--temp", 0.8, "--top-k", 40, "--seed", 11,
                                  "--kv-dtype", "f32", "--prefill", prefill, "--decode", decode)
            texts.add(result["text"])
        self.assertEqual(len(texts), 1, texts)

    def test_two_partitions_of_the_host_are_two_devices(self) -> None:
        env = {"CONSORT_CPU_PARTITIONS": "2"}
        result = consort_json("run", DEMO_F32, "-p", "KING:\n", "-n", 8, "--temp", 0, "--prefill", "cpu:0", "--decode",
                              "cpu:1", env=env)
        self.check_transfer(result, "cpu:0", "cpu:1")

    def test_without_an_opencl_platform_the_rest_works(self) -> None:
        with tempfile.TemporaryDirectory() as empty:
            env = {"OCL_ICD_VENDORS": empty}
            refused = consort("run", DEMO_Q8_0, "-p", "x", "-n", 4, "--prefill", "opencl:0", "--decode", "cpu:0", env=env)
            self.assertEqual(refused.returncode, 1)
            lines = [line for line in refused.stderr.splitlines() if line.startswith("consort: error: ")]
            self.assertEqual(len(lines), 1, refused.stderr)
            self.assertIn("opencl", lines[0])
            works = consort_json("run", DEMO_Q8_0, "-p", "x", "-n", 4, "--prefill", "cpu:0", "--decode", "cpu:0", env=env)
            self.assertEqual(len(works["tokens"]), 4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
