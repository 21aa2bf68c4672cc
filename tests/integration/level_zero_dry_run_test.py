"""Intel's own driver as a dry run: it builds our modules, records our lists and takes our events, but no kernel executes.

Whole-model runs must end without an API error; what they compute is meaningless and is not looked at. The driver is a
library named in CONSORT_TEST_INTEL_DRIVER, or where scripts/deps --full unpacks it, or where Debian puts it.
"""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path

PLACE = "usr/lib/x86_64-linux-gnu/libze_intel_gpu.so.1"
CANDIDATES = [os.environ.get("CONSORT_TEST_INTEL_DRIVER", ""), Path(__file__).resolve().parents[2] / "build/intel" / PLACE,
              "/" + PLACE]
DRIVER = next((str(path) for path in CANDIDATES if path and Path(path).is_file()), None)
if not DRIVER:
    print("skipped: Intel's Level Zero driver (libze_intel_gpu.so.1) is not installed")
    sys.exit(77)

from program import DEMO_F32, DEMO_Q8_0, consort, consort_json, scratch  # noqa: E402

DRY_RUN = {"ZE_ENABLE_ALT_DRIVERS": DRIVER, "LD_LIBRARY_PATH": os.path.dirname(DRIVER), "NEOReadDebugKeys": "1", "SetCommandStreamReceiver": "1",
           "AUBDumpCaptureFileName": "/dev/null", "ProductFamilyOverride": "dg2", "HardwareInfoOverride": "8x4x16"}


class DryRunTest(unittest.TestCase):
    def test_the_driver_offers_its_device(self) -> None:
        plugins = consort_json("devices", env=DRY_RUN)["plugins"]
        names = [d["name"] for p in plugins for d in p.get("devices", [])]
        self.assertIn("level_zero:0", names, plugins)

    def test_models_run_through_without_an_api_error(self) -> None:
        for model in (DEMO_F32, DEMO_Q8_0):
            with self.subTest(model=model.name):
                done = consort("logits", model, "--tokens", "1,2,3,4,5,6,7,8,9,10,11,12", "--device", "level_zero:0", "-o",
                               scratch() / "ignored.npy", env=DRY_RUN)
                self.assertEqual(done.returncode, 0, done.stderr)
                print(f"{model.name}: every call of the driver succeeded; its values are ignored, no kernel ran")


if __name__ == "__main__":
    unittest.main(verbosity=2)
