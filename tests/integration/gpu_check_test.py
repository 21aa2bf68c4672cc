"""scripts/gpu-check from its first step to its table, over the fake driver (tests/cuda_driver): the day a GPU is there it has
to work at once."""

from __future__ import annotations

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(os.environ["CONSORT_TEST_SOURCE"]) / "scripts" / "gpu-check"


class GpuCheckTest(unittest.TestCase):
    def test_every_step_runs_on_the_fake_driver(self) -> None:
        """With a program that says there is a GPU, tiny shapes and no kit, which is a test of its own."""
        with tempfile.TemporaryDirectory() as folder:
            build = Path(folder) / "build"
            build.mkdir()
            for name in ("bin", "lib"):
                (build / name).symlink_to(Path(os.environ["CONSORT_TEST_BUILD"]) / name)
            smi, sanitizer = Path(folder) / "nvidia-smi", Path(folder) / "sanitizer"
            smi.write_text("#!/bin/sh\necho 'A fake GPU, 580.00, 4096 MiB'\n")
            sanitizer.write_text('#!/bin/sh\nshift 4\nexec "$@"\n')
            smi.chmod(0o755)
            sanitizer.chmod(0o755)
            env = {**os.environ, "CONSORT_NVIDIA_SMI": str(smi), "CONSORT_COMPUTE_SANITIZER": str(sanitizer),
                   "CONSORT_FAKE_CUDA": "capability=9", "CONSORT_NVCC": "/bin/true", "CONSORT_GPU_CHECK_TORCH": "/bin/false"}
            env.pop("CONSORT_GPU_CHECK_LLAMA", None)
            done = subprocess.run([SCRIPT, "--build", build, "--no-build", "--small", "--only",
                                   "placements,sanitizer,probe,bf16,batch,fp8,q4,disaggregated,transformers,llama"],
                                  capture_output=True, text=True, check=False, env=env, timeout=380)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        table = done.stdout[done.stdout.index("== result"):]
        for words in ("A fake GPU", "the tokens of cpu:0 on cuda:0 -> cuda:0", "compute-sanitizer memcheck", "GB/s, read and written",
                      "TFLOP/s", "more than a CUDA graph made by hand", "BF16 prefill of 32", "times one sequence", "BF16 prefill in FP8", "Q4_K_M decode",
                      "cuda:0 -> cpu:0", "cpu:0 -> cpu:0", "hidden", "transformers                                   not taken",
                      "llama                                          not taken", "0 failed"):
            self.assertIn(words, table)


if __name__ == "__main__":
    unittest.main(verbosity=2)
