"""The CUDA plugin where there is no GPU: it links against libc alone, and scripts/gpu-check says why it does nothing."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(os.environ["CONSORT_TEST_SOURCE"]) / "scripts" / "gpu-check"


class GpuCheckTest(unittest.TestCase):
    def test_without_a_gpu_it_is_skipped_with_a_reason(self) -> None:
        with tempfile.TemporaryDirectory() as empty:
            env = {**os.environ, "CONSORT_NVIDIA_SMI": str(Path(empty) / "nvidia-smi")}
            done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False, env=env, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.startswith("skipped: no GPU"), done.stdout)

    def test_the_plugin_links_against_libc_alone(self) -> None:
        plugin = Path(os.environ["CONSORT_TEST_PLUGINS"]) / "consort-cuda.so"
        done = subprocess.run(["ldd", plugin], capture_output=True, text=True, check=True, timeout=60)
        names = {re.sub(r"\..*", "", Path(line.split()[0]).name) for line in done.stdout.splitlines()}
        self.assertEqual({n for n in names if not n.startswith(("linux-vdso", "ld-linux"))}, {"libc"})

    def test_a_wrong_argument_is_wrong_usage(self) -> None:
        done = subprocess.run([SCRIPT, "--nonsense"], capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("usage:", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
