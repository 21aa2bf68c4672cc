"""The SDK as a chip maker meets it: an installed prefix, a new plugin out of tree, a model running on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

from program import DEMO_F32, consort, consort_json, scratch, stories

BUILD = Path(os.environ["CONSORT_TEST_BUILD"])


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a command that must succeed; returns its output."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, **(env or {})})
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class SdkTest(unittest.TestCase):
    prefix: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.prefix = scratch() / "prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)

    def new_plugin(self, name: str) -> Path:
        """The project that `consort new-plugin` of the installed prefix writes."""
        folder = scratch() / f"out-of-tree-{self._testMethodName}"
        folder.mkdir()
        run(self.prefix / "bin" / "consort", "new-plugin", name, cwd=folder)
        return folder / f"consort-{name}"

    def build(self, project: Path, compiler: str, prefix: Path | None = None) -> Path:
        out = project / f"build-{compiler}"
        run("cmake", "-S", project, "-B", out, "-G", "Ninja", f"-DCMAKE_C_COMPILER={compiler}", "-DCMAKE_C_FLAGS=-Werror",
            f"-DCMAKE_PREFIX_PATH={prefix or self.prefix}")
        run("cmake", "--build", out)
        return out

    def test_the_template_enters_the_kit_unedited_with_both_compilers(self) -> None:
        project = self.new_plugin("my-chip")
        for compiler in ("gcc", "clang"):
            with self.subTest(compiler=compiler):
                if not shutil.which(compiler):
                    self.skipTest(f"{compiler} is not installed")
                run("ctest", "--test-dir", self.build(project, compiler), "--output-on-failure")

    def test_memory_copies_and_matmul_run_a_real_model(self) -> None:
        """Everything but matmul falls back, is listed, and the tokens are those of cpu:0."""
        plugins = self.build(self.new_plugin("mychip"), "gcc") / "plugins"
        env = {"CONSORT_PLUGIN_PATH": str(plugins)}
        model = stories() or DEMO_F32
        common = ("run", model, "-p", "Once upon a time", "-n", 40, "--temp", 0)
        expected = consort_json(*common, "--prefill", "cpu:0", "--decode", "cpu:0")
        found = consort_json(*common, "--prefill", "mychip:0", "--decode", "mychip:0", env=env)
        self.assertEqual(found["tokens"], expected["tokens"])
        fallbacks = {f["op"]: f for f in found["fallbacks"]}
        self.assertNotIn("matmul", fallbacks)
        for op in ("gather_rows", "rms_norm", "rope", "kv_write", "attention_paged", "silu_mul", "argmax"):
            self.assertIn(op, fallbacks)
            self.assertEqual(fallbacks[op]["device"], "cpu:0")
            self.assertGreater(fallbacks[op]["count"], 0)
        strict = consort(*common, "--prefill", "mychip:0", "--decode", "mychip:0", "--fallback", "strict", env=env)
        self.assertEqual(strict.returncode, 1)
        self.assertEqual(len([x for x in strict.stderr.splitlines() if x.startswith("consort: error: ")]), 1, strict.stderr)
        mixed = consort_json(*common, "--prefill", "mychip:0", "--decode", "cpu:0", env=env)
        self.assertEqual(mixed["tokens"], expected["tokens"])
        self.assertTrue(mixed["kv_transfer"]["verified"])

    def altered_prefix(self, name: str, edit: dict[str, tuple[str, str]]) -> Path:
        """A copy of the prefix whose headers are those of another age."""
        prefix = scratch() / name
        shutil.copytree(self.prefix, prefix, symlinks=True)
        header = prefix / "include" / "consort" / "plugin.h"
        text = header.read_text()
        for what, (pattern, replacement) in edit.items():
            text, n = re.subn(pattern, replacement, text, count=1)
            self.assertEqual(n, 1, what)
        header.write_text(text)
        return prefix

    def runs_the_model(self, plugins: Path) -> None:
        found = consort_json("run", DEMO_F32, "-p", "KING:\n", "-n", 6, "--temp", 0, "--prefill", "aged:0", "--decode",
                             "aged:0", env={"CONSORT_PLUGIN_PATH": str(plugins)})
        expected = consort_json("run", DEMO_F32, "-p", "KING:\n", "-n", 6, "--temp", 0, "--prefill", "cpu:0", "--decode", "cpu:0")
        self.assertEqual(found["tokens"], expected["tokens"])

    def test_a_plugin_built_with_a_newer_header_works(self) -> None:
        """Structs have grown at their ends; what the old host does not know stays zero."""
        prefix = self.altered_prefix("newer", {
            "properties": (r"(  uint32_t concurrency;[^\n]*\n)", r"\1  uint64_t added_later[2];\n"),
            "table": (r"(\} cs_stream_table;)", r"  cs_status (*added_later)(cs_plugin_stream *stream);\n\1"),
        })
        self.runs_the_model(self.build(self.new_plugin("aged"), "gcc", prefix) / "plugins")

    def test_a_plugin_built_with_an_older_header_works(self) -> None:
        """The host's structs are larger; an optional entry at the end is missing."""
        prefix = self.altered_prefix("older", {
            "properties": (r"  uint32_t concurrency;[^\n]*\n", ""),
            "memory": (r"  void \*\(\*memory_host_pointer\)[^;]*;\n", ""),
        })
        project = self.new_plugin("aged")
        source = project / "src" / "plugin.c"
        source.write_text(source.read_text().replace("      .concurrency = 1,\n", ""))
        self.runs_the_model(self.build(project, "gcc", prefix) / "plugins")

    def test_a_plugin_of_another_abi_version_is_refused_in_one_line(self) -> None:
        project = self.new_plugin("aged")
        plugins = self.build(project, "gcc") / "plugins"
        manifest = plugins / "aged.plugin"
        manifest.write_text(manifest.read_text().replace("abi_min = 0", "abi_min = 7").replace("abi_max = 0", "abi_max = 9"))
        env = {"CONSORT_PLUGIN_PATH": str(plugins)}
        plugin = next(p for p in consort_json("devices", env=env)["plugins"] if p["name"] == "aged")
        self.assertIn("7", plugin["failure"])
        self.assertNotIn("\n", plugin["failure"])
        done = consort("run", DEMO_F32, "-p", "x", "--prefill", "aged:0", "--decode", "cpu:0", env=env)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len([x for x in done.stderr.splitlines() if x.startswith("consort: error: ")]), 1, done.stderr)

    def test_new_plugin_refuses_a_bad_name_and_a_folder_that_is_there(self) -> None:
        self.assertEqual(consort("new-plugin", "My Chip").returncode, 2)
        project = self.new_plugin("mychip")
        again = subprocess.run([self.prefix / "bin" / "consort", "new-plugin", "mychip"], cwd=project.parent, text=True,
                               capture_output=True, check=False)
        self.assertEqual(again.returncode, 1)
        self.assertIn("consort: error: ", again.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
