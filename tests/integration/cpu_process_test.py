"""What the program on the CPU plugin takes of the machine: anonymous memory, nodes that hwloc makes up, lines on a terminal."""

from __future__ import annotations

import functools
import os
import pty
import re
import subprocess
import unittest
from pathlib import Path

from program import DEMO_Q8_0, PROGRAM, consort, consort_json, scratch

ON_CPU = ("--prefill", "cpu:0", "--decode", "cpu:0")
CONTEXT = 2048
PROMPT = "zq " * 300  # tokens enough for more than one whole step


@functools.cache
def model() -> Path:
    """170 MB of weights."""
    path = scratch() / "llama-160m.gguf"
    assert consort("bench", "--shape", "llama-160m", "--format", "Q8_0", "--write", path).returncode == 0
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "CONSORT_CACHE": str(scratch() / "cache")}


def anonymous_bytes(*arguments: object) -> int:
    """The most that a run of the program had."""
    process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=environment())
    most = 0
    while process.poll() is None:
        try:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        except (OSError, ProcessLookupError):
            break
        most = max(most, int(found[1]) * 1024 if found else 0)
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    return most


class MemoryTest(unittest.TestCase):
    def setUp(self) -> None:
        info = consort_json("info", model())
        self.weights = info["weight_bytes"]
        self.kv = CONTEXT * info["kv_bytes_per_token"]

    def measured(self, *more: str) -> int:
        return anonymous_bytes("run", model(), "-p", PROMPT, "-n", 2, "--ctx", CONTEXT, *ON_CPU, *more)

    def test_it_is_weights_and_kv_and_a_tenth(self) -> None:
        most = self.measured()
        self.assertGreater(most, self.weights)  # a sample was taken when all was there
        self.assertLess(most, 1.1 * (self.weights + self.kv))

    def test_packed_weights_that_are_mapped_are_not_anonymous(self) -> None:
        self.measured("--pack-cache")
        self.assertLess(self.measured("--pack-cache"), self.kv + 0.1 * (self.weights + self.kv))


class NodesTest(unittest.TestCase):
    """Two nodes of one core each, as far as the plugin can tell: the kernel has one, and refuses the other."""

    def run_on(self, device: str) -> subprocess.CompletedProcess[str]:
        return consort("run", DEMO_Q8_0, "-p", "To be, or", "-n", "8", "--temp", "0", "--prefill", device, "--decode", device,
                       env={"HWLOC_SYNTHETIC": "numa:2 core:1 pu:1"})

    def setUp(self) -> None:
        done = consort("devices", env={"HWLOC_SYNTHETIC": "numa:2 core:1 pu:1"})
        if "2 memory nodes" not in done.stdout:
            self.skipTest("built without hwloc, or fewer than two cores")

    def test_words_do_not_depend_on_placement(self) -> None:
        plain = self.run_on("cpu:0?numa=off")
        self.assertEqual(plain.returncode, 0, plain.stderr)
        for node in ("auto", "0", "1"):
            done = self.run_on(f"cpu:0?numa={node}")
            self.assertEqual((done.returncode, done.stdout), (0, plain.stdout), done.stderr)

    def test_a_node_that_is_missing_is_named(self) -> None:
        done = self.run_on("cpu:0?numa=2")
        self.assertEqual(done.returncode, 1)
        self.assertIn("numa=2: none of the device's 2 cores is on that node", done.stderr)


def on_a_terminal(*arguments: object) -> str:
    """Standard error of the program where that is a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=follower, env=environment())
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(leader)
    assert process.wait() == 0, text
    return text.decode()


class ProgressTest(unittest.TestCase):
    def check_bar(self, text: str, what: str) -> None:
        drawn = re.findall(re.escape(what) + r" \[([#.]{30})\] +(\d+) % of [0-9.]+ [KM]iB", text)
        self.assertGreater(len(drawn), 10)
        percents = [int(percent) for _, percent in drawn]
        self.assertEqual(percents, sorted(percents))
        self.assertEqual(percents[-1], 100)
        for bar, percent in drawn:
            self.assertEqual(bar.count("#"), int(percent) * 30 // 100)
        self.assertTrue(text.endswith("\r\x1b[K"), text[-40:])  # nothing is left of it

    def test_loading_shows_a_bar_on_a_terminal(self) -> None:
        self.check_bar(on_a_terminal("run", model(), "-p", "a", "-n", 1, *ON_CPU), "loading weights on cpu:0")

    def test_writing_a_shape_shows_one_too(self) -> None:
        out = scratch() / "again.gguf"
        self.check_bar(on_a_terminal("bench", "--shape", "llama-160m", "--write", out), "writing weights")
        out.unlink()

    def test_a_pipe_gets_none(self) -> None:
        self.assertEqual(consort("run", model(), "-p", "a", "-n", "1", *ON_CPU).stderr, "")


if __name__ == "__main__":
    unittest.main()
