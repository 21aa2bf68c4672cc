"""The plugin and the program for 64-bit Arm, cross-built and run under qemu-user as several processors: unit tests of every
table, the kit, the choice of the table at run time, and whole models with prefill and decode on different devices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SYSROOT = SOURCE / "build/aarch64/sysroot"
LIBRARIES = SYSROOT / "usr/lib/aarch64-linux-gnu"
BUILD = Path(os.environ["CONSORT_TEST_BUILD"]) / "aarch64"
HOST_PROGRAM = os.environ["CONSORT_TEST_PROGRAM"]
UNIT_TESTS = ("cpu_device_test", "cpu_matmul_test", "cpu_ops_test", "cpu_attention_test")
# What qemu is asked to be -> the tables that it can run, best first.
PROCESSORS = {
    "max": ("neon-i8mm", "neon-dotprod", "neon", "generic"),
    "neoverse-n1": ("neon-dotprod", "neon", "generic"),
    "cortex-a57": ("neon", "generic"),
}
# Every op, and of KV one layout: emulated, the rest of the kit takes minutes and meets the same loops.
KIT_CASES = ("matmul/*,moe_*,attention_paged/*/preferred,kv_*/preferred,rms_norm*,rope*,gather_rows*,silu_mul*,gelu_mul*,add*,"
             "cast*,copy/*,argmax*,top_k*,model/*,weights_map/*,query/*,replay/*,streams/*,semaphores/*,threads/*")


def need(condition: object, what: str) -> None:
    if not condition:
        print(f"skipped: no {what} (scripts/deps --full)")
        sys.exit(77)


def emulated(processor: str, *command: str | Path, stage: Path = BUILD) -> list[str]:
    return ["qemu-aarch64", "-cpu", processor, "-L", "/usr/aarch64-linux-gnu", "-E",
            f"LD_LIBRARY_PATH={stage / 'lib'}:{LIBRARIES}", *map(str, command)]


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, errors="replace", check=False)


def build() -> None:
    configure = ["cmake", "-S", str(SOURCE), "-B", str(BUILD), "-G", "Ninja", "--toolchain",
                 str(SOURCE / "cmake/aarch64.cmake"), "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCONSORT_WERROR=ON"]
    targets = ["consort_cli", "consort_plugin_cpu", "consort-cts", *UNIT_TESTS]
    for command in (configure, ["cmake", "--build", str(BUILD), "--target", *targets]):
        done = run(command)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


class Aarch64Test(unittest.TestCase):
    def unit_test(self, name: str, processor: str) -> None:
        done = run(emulated(processor, BUILD / "tests" / name), CONSORT_TEST_KERNELS=" ".join(PROCESSORS[processor]),
                   CONSORT_TEST_PLUGINS=str(BUILD / "lib/consort/plugins"), CONSORT_TEST_SOURCE=str(SOURCE))
        self.assertEqual(done.returncode, 0, f"{name} on {processor}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def test_every_table_agrees_with_the_formulas(self) -> None:
        for name in UNIT_TESTS:
            self.unit_test(name, "max")

    def test_a_processor_without_an_extension_has_fewer_tables(self) -> None:
        for processor in ("neoverse-n1", "cortex-a57"):
            self.unit_test("cpu_device_test", processor)

    def test_the_kit_passes(self) -> None:
        done = run(emulated("max", BUILD / "bin/consort-cts", BUILD / "lib/consort/plugins/consort-cpu.so", "--quick",
                            "--no-speed", "--only", KIT_CASES))
        self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-3000:])
        self.assertIn("model/q8_0", done.stdout)


class WholeModelTest(unittest.TestCase):
    """The program starts its probe of plugins, which the host's kernel cannot run: a script hands it to qemu."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.stage = Path(folder.name)
        (self.stage / "bin").mkdir()
        shutil.copy(BUILD / "bin/consort", self.stage / "bin")
        shutil.copytree(BUILD / "lib", self.stage / "lib", symlinks=True)
        self.probe = self.stage / "lib/consort/consort-probe"
        self.probe.rename(self.probe.with_suffix(".aarch64"))

    def consort(self, processor: str, *arguments: str) -> str:
        probe = emulated(processor, self.probe.with_suffix(".aarch64"), stage=self.stage)
        self.probe.write_text(f"#!/bin/sh\nexec {' '.join(probe)} \"$@\"\n")
        self.probe.chmod(0o755)
        done = run(emulated(processor, self.stage / "bin/consort", *arguments, stage=self.stage),
                   CONSORT_CPU_PARTITIONS="2", XDG_DATA_HOME=str(self.stage))
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_prefill_and_decode_on_two_devices_say_what_the_host_says(self) -> None:
        f32 = ("run", str(SOURCE / "models/demo/consort-demo-f32.gguf"), "-p", "To be, or", "-n", "24", "--temp", "0")
        host = run([HOST_PROGRAM, *f32, "--prefill", "cpu:0", "--decode", "cpu:0"])
        self.assertEqual(host.returncode, 0, host.stderr)
        for processor, tables in PROCESSORS.items():
            self.assertIn(f" {tables[0]};", self.consort(processor, "devices"))
            self.assertEqual(self.consort(processor, *f32, "--prefill", "cpu:0", "--decode", "cpu:1"), host.stdout, processor)

    def test_int8_tables_say_the_same(self) -> None:
        q8_0 = ("run", str(SOURCE / "models/demo/consort-demo-q8_0.gguf"), "-p", "To be, or", "-n", "24", "--temp", "0",
                "--prefill", "cpu:0?int8=always", "--decode", "cpu:1?int8=always")
        said = {self.consort(processor, *q8_0) for processor in PROCESSORS}
        self.assertEqual(len(said), 1, said)
        self.assertTrue(said.pop().strip())


if __name__ == "__main__":
    need(shutil.which("aarch64-linux-gnu-gcc"), "aarch64-linux-gnu-gcc")
    need(shutil.which("qemu-aarch64"), "qemu-aarch64")
    need(LIBRARIES.exists(), "libraries for arm64 in build/aarch64/sysroot")
    build()
    unittest.main(verbosity=2)
