"""consort eval: its perplexity is that of the logits it has, and placements agree on the demo model."""

from __future__ import annotations

import json
import math
import struct
import tempfile
import unittest
from pathlib import Path

from program import DEMO_F32, DEMO_Q8_0, consort

TEXT = "The first plugin runs the prompt, the second one the tokens after it. " * 24


class Eval(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.text = cls.folder / "text.txt"
        cls.text.write_text(TEXT)
        devices = json.loads(consort("devices", "--json").stdout)
        cls.devices = [d["name"] for p in devices["plugins"] for d in p["devices"]]

    def evaluate(self, *arguments: object) -> dict:
        done = consort("eval", DEMO_Q8_0, "-f", self.text, "--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_perplexity_is_that_of_the_logits(self) -> None:
        place = ["--prefill", "cpu:0", "--decode", "cpu:0", "--kv-dtype", "f32"]
        result = self.evaluate("--ctx", 64, "--skip", 10, "--windows", 2, *place)
        self.assertEqual((result["windows"], result["tokens"]), (2, 2 * 53))
        listed = json.loads(consort("tokenize", DEMO_Q8_0, TEXT, "--json").stdout)["tokens"]
        tokens = [t["id"] for t in listed][:128]
        nll = []
        for window in (tokens[:64], [tokens[0]] + tokens[65:128]):
            output = self.folder / "rows.npy"
            done = consort("logits", DEMO_Q8_0, "--tokens", ",".join(map(str, window)), "--device", "cpu:0", "-o", output)
            self.assertEqual(done.returncode, 0, done.stderr)
            data = output.read_bytes()
            n_vocab = json.loads(consort("info", DEMO_Q8_0, "--json").stdout)["n_vocab"]
            values = struct.unpack(f"<{64 * n_vocab}f", data[-4 * 64 * n_vocab:])
            for i in range(10, 63):
                row = values[i * n_vocab:(i + 1) * n_vocab]
                nll.append(math.log(math.fsum(math.exp(v) for v in row)) - row[window[i + 1]])
        self.assertAlmostEqual(math.log(result["perplexity"]), math.fsum(nll) / len(nll), places=4)
        bits = math.fsum(nll) / math.log(2) / result["text_bytes"]
        self.assertAlmostEqual(result["bits_per_byte"], bits, places=3)

    def test_placements_agree_outside_near_ties(self) -> None:
        if "opencl:0" not in self.devices:
            self.skipTest("no opencl:0 here")
        result = self.evaluate("--ctx", 128, "--windows", 2, "--prefill", "cpu:0", "--decode", "cpu:0", "--compare",
                               "--against-prefill", "opencl:0")
        self.assertEqual(result["against"]["prefill"], "opencl:0")
        difference = result["difference"]
        self.assertEqual(difference["top1_agreement_clear"], 1)
        self.assertEqual(difference["clear_differences"], 0)
        self.assertGreater(difference["top1_agreement"], 0.98)
        self.assertLess(difference["kl"]["mean"], 1e-3)
        self.assertGreater(difference["kl"]["max"], 0)
        self.assertAlmostEqual(result["perplexity"], result["against"]["perplexity"], delta=0.01 * result["perplexity"])

    def test_another_file_is_held_against_this_one(self) -> None:
        result = self.evaluate("--ctx", 64, "--windows", 1, "--prefill", "cpu:0", "--decode", "cpu:0", "--compare",
                               "--against-model", DEMO_F32)
        self.assertLess(result["difference"]["nmse"], 1e-2)
        self.assertGreater(result["difference"]["nmse"], 0)

    def test_what_cannot_be_scored_is_told_in_one_line(self) -> None:
        place = ["--prefill", "cpu:0", "--decode", "cpu:0"]
        empty = self.folder / "empty.txt"
        empty.write_text("")
        cases = [(["-f", self.folder / "none.txt"], "No such file"), (["-f", empty], "is empty"),
                 (["-f", self.text, "--ctx", 32, "--skip", 31], "none to score"), ([], "-f TEXT is missing"),
                 (["-f", self.text, "--compare"], "needs --against-"), (["-f", self.text, "--against-prefill", "cpu:0"], "--compare")]
        for arguments, reason in cases:
            done = consort("eval", DEMO_Q8_0, *arguments, *place)
            self.assertNotEqual(done.returncode, 0)
            lines = [line for line in done.stderr.splitlines() if "error" in line]
            self.assertEqual(len(lines), 1, done.stderr)
            self.assertIn(reason, lines[0])


if __name__ == "__main__":
    unittest.main()
