"""--pack-cache of the program: the same words with and without it, one file that the second start leaves alone, and several
processes that write it at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from pathlib import Path

from program import DEMO_Q8_0, PROGRAM, consort, scratch

RUN = ("-p", "To be, or", "-n", "12", "--temp", "0", "--prefill", "cpu:0", "--decode", "cpu:0")
ROOT = scratch()


class PackCacheTest(unittest.TestCase):
    def setUp(self) -> None:
        self.root = ROOT / self._testMethodName
        self.root.mkdir()
        self.env = {"XDG_CACHE_HOME": str(self.root), "CONSORT_CACHE": "", "CONSORT_LOG": "info"}
        self.plain = consort("run", DEMO_Q8_0, *RUN).stdout
        self.assertTrue(self.plain)

    def run_cached(self, model: Path = DEMO_Q8_0, **env: str) -> str:
        done = consort("run", model, *RUN, "--pack-cache", env={**self.env, **env})
        self.assertEqual((done.returncode, done.stdout), (0, self.plain), done.stderr)
        return done.stderr

    def files(self) -> list[Path]:
        return sorted((self.root / "consort" / "packed").iterdir())

    def test_the_second_start_uses_what_the_first_wrote(self) -> None:
        self.assertIn("written from cpu:0", self.run_cached())
        (path,) = self.files()
        before = path.stat()
        self.assertEqual(before.st_mode & 0o777, 0o600)
        self.assertIn("cpu:0 uses", self.run_cached())
        after = path.stat()
        self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))

    def test_a_model_file_that_changed_gets_a_file_of_its_own(self) -> None:
        model = self.root / "model.gguf"
        shutil.copyfile(DEMO_Q8_0, model)
        self.run_cached(model)
        os.utime(model, (1, 1))
        self.assertIn("written from cpu:0", self.run_cached(model))
        self.assertEqual(len(self.files()), 2)

    def test_kernels_of_all_instruction_sets_share_it(self) -> None:
        self.run_cached()
        done = consort("logits", DEMO_Q8_0, "--tokens", "1,2,3", "--device", "cpu:0?kernel=generic", "--pack-cache", "-o",
                       self.root / "logits", env=self.env)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("cpu:0 uses", done.stderr)

    def test_processes_that_start_at_once_leave_one_whole_file(self) -> None:
        started = [subprocess.Popen([PROGRAM, "run", str(DEMO_Q8_0), *RUN, "--pack-cache"], env={**os.environ, **self.env},
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") for _ in range(4)]
        for process in started:
            out, log = process.communicate(timeout=120)
            self.assertEqual((process.returncode, out), (0, self.plain), log)
            self.assertNotIn("warn", log)
        self.assertEqual(len(self.files()), 1)
        self.assertIn("cpu:0 uses", self.run_cached())

    def test_where_the_folder_is(self) -> None:
        self.run_cached(CONSORT_CACHE=str(self.root / "own"))
        self.assertEqual(len(list((self.root / "own" / "packed").iterdir())), 1)
        done = consort("run", DEMO_Q8_0, *RUN, "--pack-cache", env={"CONSORT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": ""})
        self.assertEqual(done.returncode, 1)
        self.assertIn("--pack-cache: none of CONSORT_CACHE, XDG_CACHE_HOME and HOME says where to", done.stderr)


if __name__ == "__main__":
    unittest.main()
