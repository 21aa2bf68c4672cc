"""tools/compare_llama.py with programs of known speed in place of both sides: who runs when, what is printed, and what is said when
a side is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import unittest
from pathlib import Path

from program import DEMO_Q8_0, PROGRAM, SOURCE, scratch

TOOL = SOURCE / "tools" / "compare_llama.py"

# 100 tokens/s after the warm-up of 1; each answer leaves a line in the log.
PEER = """
import sys
print("ready fake 1.0", flush=True)
log = open(sys.argv[1], "a")
warm = set()
for line in sys.stdin:
    test, n = line.split()
    print(test, n, file=log, flush=True)
    print(int(n) / (100 if test in warm else 1), flush=True)
    warm.add(test)
"""
# 200, 400 and 300 prompt tokens/s in turn, half as many output tokens.
OURS = """#!/usr/bin/env python3
import json, sys
log = sys.argv[0] + ".log"
turn = open(log).read().count("ours")
print("ours", *sys.argv[1:], file=open(log, "a"))
rate = (200, 400, 300)[turn % 3]
print(json.dumps({"results": [{"test": "pp64", "tokens_per_s": rate}, {"test": "tg8", "tokens_per_s": rate / 2}]}))
"""


def program(name: str, text: str) -> Path:
    path = scratch() / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True, timeout=120)


class CompareTest(unittest.TestCase):
    def setUp(self) -> None:
        self.ours = program("ours", OURS)
        self.log = Path(f"{self.ours}.log")
        self.log.write_text("")
        self.peer = f"{sys.executable} {program('peer.py', PEER)} {self.log}"

    def fakes(self, *more: object) -> subprocess.CompletedProcess[str]:
        return compare("m.gguf", "--consort", self.ours, "--peer", self.peer, "-p", 64, "-n", 8, "--pairs", 3, "--threads", 2, *more)

    def test_sides_take_turns_after_a_warm_up(self) -> None:
        self.assertEqual(self.fakes().returncode, 0)
        turns = [line.split()[0] for line in self.log.read_text().splitlines()]
        self.assertEqual(turns, ["pp", "tg"] + ["ours", "pp", "tg"] * 3)

    def test_both_sides_get_the_same_sizes_and_threads(self) -> None:
        self.fakes()
        lines = self.log.read_text().splitlines()
        self.assertEqual({line for line in lines if not line.startswith("ours")}, {"pp 64", "tg 8"})
        self.assertIn("ours bench m.gguf -p 64 -n 8 -r 1 --no-limits --prefill cpu:0 --decode cpu:0 --threads 2 --json", lines)

    def test_ratios_are_ours_to_theirs_and_medians_are_of_pairs(self) -> None:
        found = json.loads(self.fakes("--json").stdout)[0]
        self.assertEqual(found["peer"], "fake 1.0")
        for name, ratios in (("pp64", [2.0, 4.0, 3.0]), ("tg8", [1.0, 2.0, 1.5])):
            test = found["tests"][name]
            for pair, ratio in zip(test["pairs"], ratios, strict=True):
                self.assertAlmostEqual(pair[2], ratio)
                self.assertAlmostEqual(pair[1], 100)
            self.assertAlmostEqual(test["medians"]["ratio"], sorted(ratios)[1])
            self.assertAlmostEqual(test["medians"]["ours"], sorted(ratios)[1] * 100)

    def test_text_shows_each_pair_and_the_medians(self) -> None:
        lines = self.fakes().stdout.splitlines()
        self.assertEqual(len(lines), 1 + 2 * 4)
        self.assertIn("fake 1.0", lines[0])
        self.assertRegex(lines[1], r"^  pp64 +200\.00 +100\.00   ratio +2\.00$")
        self.assertRegex(lines[4], r"^  pp64 +300\.00 +100\.00   ratio +3\.00   medians of 3 pairs$")

    def refused(self, done: subprocess.CompletedProcess[str], *parts: str) -> None:
        self.assertEqual(done.returncode, 1)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        for part in ("compare_llama: error: ", *parts):
            self.assertIn(part, lines[0])

    def test_a_python_without_llama_cpp_is_one_line(self) -> None:
        bare = program("bare-python", "#!/bin/sh\nexit 3\n")
        self.refused(compare("m.gguf", "--consort", self.ours, "--python", bare), "llama.cpp is absent", "llama-cpp-python", "--python")

    def test_what_the_peer_says_is_passed_on(self) -> None:
        peer = program("failing", "#!/bin/sh\necho failed m.gguf: no such file\nexit 1\n")
        self.refused(compare("m.gguf", "--consort", self.ours, "--peer", peer), "m.gguf: no such file")

    def test_a_program_that_is_missing_is_named(self) -> None:
        self.refused(compare("m.gguf", "--consort", "/nowhere/consort", "--peer", self.peer), "/nowhere/consort", "--consort")
        self.refused(compare("m.gguf", "--consort", self.ours, "--peer", "/nowhere/peer"), "/nowhere/peer")

    def test_the_program_itself_takes_part(self) -> None:
        done = compare(DEMO_Q8_0, "--consort", PROGRAM, "--peer", self.peer, "-p", 16, "-n", 4, "--pairs", 1, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        tests = json.loads(done.stdout)[0]["tests"]
        self.assertEqual(list(tests), ["pp16", "tg4"])
        self.assertGreater(tests["tg4"]["pairs"][0][0], 0)

    def test_an_error_of_the_program_is_passed_on(self) -> None:
        self.refused(compare("/nowhere.gguf", "--consort", PROGRAM, "--peer", self.peer), "/nowhere.gguf")


if __name__ == "__main__":
    unittest.main()
