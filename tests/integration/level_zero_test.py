"""Whole models over Level Zero: on level_zero:0 alone, and with every other device in both directions.

The device is the test driver's behind the real loader (CONSORT_TEST_LEVEL_ZERO_DRIVER), so this shows that lists, events
and SPIR-V are right, not that an Intel GPU is.
"""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path

DRIVER = os.environ.get("CONSORT_TEST_LEVEL_ZERO_DRIVER", "")
if not Path(DRIVER).is_file():
    print("skipped: the Level Zero test driver is not built")
    sys.exit(77)
os.environ["ZE_ENABLE_ALT_DRIVERS"] = DRIVER

import placements_test  # noqa: E402
from program import DEMO_Q8_0, consort, consort_json, devices  # noqa: E402

DEVICE = "level_zero:0"


def placements() -> list[tuple[str, str]]:
    others = [name for name in devices() if not name.startswith("level_zero")]
    return [(DEVICE, DEVICE)] + [pair for other in others for pair in ((DEVICE, other), (other, DEVICE))]


placements_test.placements = placements


class LevelZeroTest(placements_test.PlacementsTest):
    def test_every_other_device_takes_either_stage(self) -> None:
        pairs = placements()
        for other in ("cpu:0", "opencl:0"):
            self.assertIn((DEVICE, other), pairs)
            self.assertIn((other, DEVICE), pairs)

    def test_two_devices_of_one_driver_split_a_request(self) -> None:
        tokens = set()
        for path, decode, env in (("peer", "level_zero:1", {"ZE_TEST_DEVICES": "2", "ZE_TEST_SHUFFLE": "3"}),
                                  ("staged", "level_zero:1", {"ZE_TEST_DEVICES": "2", "ZE_TEST_PEERS": "0"}),
                                  ("none", DEVICE, {"ZE_TEST_COPY_ENGINE": "0"})):
            with self.subTest(path=path):
                result = self.run_on(placements_test.DEMO_F32, "KING:\n", 12, DEVICE, decode, "--kv-dtype", "f32", env=env)
                self.check_transfer(result, DEVICE, decode)
                self.assertEqual(result["kv_transfer"]["path"], path)
                tokens.add(tuple(result["tokens"]))
        self.assertEqual(len(tokens), 1)

    def test_memory_shared_with_the_host_gives_the_same(self) -> None:
        texts = {self.run_on(placements_test.DEMO_F32, "KING:\n", 12, device, device)["text"]
                 for device in (DEVICE, DEVICE + "?memory=shared", DEVICE + "?variant=cpu")}
        self.assertEqual(len(texts), 1, texts)

    def test_without_a_device_it_is_refused_in_one_line(self) -> None:
        done = consort("run", DEMO_Q8_0, "-p", "x", "-n", 4, "--prefill", DEVICE, "--decode", "cpu:0",
                       env={"ZE_TEST_DEVICES": "0"})
        self.assertEqual(done.returncode, 1)
        lines = [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn("the Level Zero driver has no device", lines[0])

    def test_the_device_is_listed_by_what_its_driver_says(self) -> None:
        listed = [d for p in consort_json("devices")["plugins"] for d in p.get("devices", []) if d["name"] == DEVICE]
        self.assertEqual(len(listed), 1)
        self.assertIn("test driver", listed[0]["description"])

    def test_without_the_driver_the_device_is_refused_in_one_line(self) -> None:
        done = consort("run", DEMO_Q8_0, "-p", "x", "-n", 4, "--prefill", DEVICE, "--decode", "cpu:0",
                       env={"ZE_ENABLE_ALT_DRIVERS": "/nonexistent/driver.so"})
        self.assertEqual(done.returncode, 1)
        lines = [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn("no Level Zero driver", lines[0])


TESTS = ("test_the_device_is_listed_by_what_its_driver_says", "test_without_the_driver_the_device_is_refused_in_one_line",
         "test_without_a_device_it_is_refused_in_one_line", "test_every_other_device_takes_either_stage",
         "test_two_devices_of_one_driver_split_a_request", "test_memory_shared_with_the_host_gives_the_same",
         "test_the_known_story_goes_on_alike_everywhere", "test_the_f32_demo_model_gives_the_reference_tokens_everywhere",
         "test_the_q8_0_demo_model_agrees_outside_near_ties")

if __name__ == "__main__":
    chosen = unittest.TestSuite(map(LevelZeroTest, TESTS))
    sys.exit(not unittest.TextTestRunner(verbosity=2).run(chosen).wasSuccessful())
