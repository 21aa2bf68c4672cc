"""`consort run` on the fault plugin: each fault ends as one line that names the device, or changes no token."""

from __future__ import annotations

import os
import time
import unittest
from pathlib import Path

from program import DEMO_F32, consort, consort_json

PLUGINS = Path(os.environ["CONSORT_TEST_PLUGINS"])
DEVELOPMENT = PLUGINS.with_name(PLUGINS.name + "-development")
COMMAND = ("run", DEMO_F32, "-p", "KING:\n", "-n", 6, "--temp", 0)
BOTH, SPLIT = ("--prefill", "fault:0", "--decode", "fault:0"), ("--prefill", "fault:0", "--decode", "cpu:0")
DEADLINE_S = 30


def environment(fault: str, target: Path = PLUGINS / "consort-cpu.so") -> dict[str, str]:
    return {"CONSORT_PLUGIN_PATH": f"{PLUGINS}:{DEVELOPMENT}", "CONSORT_FAULT_TARGET": str(target), "CONSORT_FAULT": fault}


class FaultRun(unittest.TestCase):

    def check_told(self, fault: str, where: tuple[str, ...], words: str, **more: Path) -> None:
        with self.subTest(fault=fault, where=where):
            begin = time.monotonic()
            done = consort(*COMMAND, *where, env=environment(fault, **more), timeout=DEADLINE_S)
            self.assertLess(time.monotonic() - begin, DEADLINE_S)
            self.assertEqual(done.returncode, 1, done.stderr)
            errors = [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn(words, errors[0])

    def test_what_fails_is_told_in_one_line(self) -> None:
        self.check_told("alloc:3", BOTH, "fault:0: no memory")
        self.check_told("alloc:20", SPLIT, "fault:0: no memory")
        for launch in (1, 2, 5):
            self.check_told(f"launch:{launch}:6", BOTH, "op ")
            self.check_told(f"lost:{launch}", BOTH, "op")
        self.check_told("launch:2:6", SPLIT, "fault:0: the launch failed")
        self.check_told("lost:3", SPLIT, "fault:0: the device is lost")
        self.check_told("corrupt-kv", SPLIT, "checksum")

    def test_a_lying_op_query_is_told_in_one_line(self) -> None:
        npu = DEVELOPMENT / "consort-npu-sim.so"
        self.check_told("lie", BOTH, "fault:0", target=npu)

    def test_what_is_late_changes_no_token(self) -> None:
        right = consort_json(*COMMAND, "--prefill", "cpu:0", "--decode", "cpu:0")["tokens"]
        for fault in ("slow:500", "reorder"):
            for where in (BOTH, SPLIT):
                with self.subTest(fault=fault, where=where):
                    self.assertEqual(consort_json(*COMMAND, *where, env=environment(fault))["tokens"], right)

    def test_a_fault_may_come_with_the_name_of_the_device(self) -> None:
        name = "fault:0?fault=launch:2:6"
        self.check_told("", ("--prefill", name, "--decode", name), "the launch failed")


if __name__ == "__main__":
    unittest.main(verbosity=2)
