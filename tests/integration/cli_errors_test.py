"""Wrong input gets exactly one line, `consort: error: WHAT: WHY`, and status 1 or 2: never a crash, a hang or silence."""

from __future__ import annotations

import os
import struct
import tempfile
import unittest
from pathlib import Path

import cli_model
from cli_model import run

N_CUTS = 200


class Errors(unittest.TestCase):
    folder: tempfile.TemporaryDirectory
    model: Path
    devices: list[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        os.environ["XDG_CACHE_HOME"] = str(Path(cls.folder.name) / "cache")
        cls.model = cli_model.write_model(Path(cls.folder.name))
        cls.devices = cli_model.device_names()

    def refused(self, status: int, words: list[str], *arguments: str, environment: dict[str, str] | None = None) -> str:
        """The one error line, which must hold all words."""
        done = run(*arguments, environment=environment)
        lines = [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]
        self.assertEqual(done.returncode, status, f"{arguments}: {done.stderr}")
        self.assertEqual(len(lines), 1, f"{arguments}: {done.stderr}")
        self.assertRegex(lines[0], r"^consort: error: .+: .+")
        self.assertEqual(done.stdout, "", arguments)
        for word in words:
            self.assertIn(word, lines[0])
        return lines[0]

    def file(self, name: str, data: bytes) -> str:
        path = Path(self.folder.name) / name
        path.write_bytes(data)
        return str(path)

    def refused_file(self, path: str) -> None:
        self.refused(1, [path], "info", path)
        self.refused(1, [path], "run", path, "-p", "Hi", "-n", "1")

    # ---- files ----

    def test_no_file(self) -> None:
        path = str(Path(self.folder.name) / "missing.gguf")
        self.refused_file(path)
        self.refused(1, [path], "tokenize", path, "Hi")
        self.refused(1, [path], "plan", path)
        self.refused(1, [path], "bench", path)
        self.refused(1, [path], "logits", path, "--tokens", "1", "--device", "cpu:0", "-o", path + ".npy")

    def test_a_folder(self) -> None:
        self.refused_file(self.folder.name)

    def test_empty_file(self) -> None:
        self.refused_file(self.file("empty.gguf", b""))

    def test_wrong_magic(self) -> None:
        self.refused_file(self.file("magic.gguf", b"GGML" + cli_model.gguf()[4:]))

    def test_unknown_version(self) -> None:
        self.refused_file(self.file("version.gguf", b"GGUF" + struct.pack("<I", 99) + cli_model.gguf()[8:]))

    def test_a_file_cut_at_each_of_many_places(self) -> None:
        whole = cli_model.gguf()
        path = str(Path(self.folder.name) / "cut.gguf")
        for i in range(N_CUTS):
            Path(path).write_bytes(whole[: len(whole) * i // N_CUTS])
            self.refused(1, [path], "info", path)

    def test_tensor_offset_past_the_end(self) -> None:
        self.refused_file(self.file("offset.gguf", cli_model.gguf(offset_of_last=1 << 40)))
        self.refused_file(self.file("offset2.gguf", cli_model.gguf(offset_of_last=(1 << 64) - 32)))

    def test_sizes_that_overflow(self) -> None:
        self.refused_file(self.file("huge.gguf", cli_model.gguf(huge_dims=True)))
        counts = bytearray(cli_model.gguf())
        counts[8:16] = struct.pack("<Q", (1 << 64) - 1)
        self.refused_file(self.file("counts.gguf", bytes(counts)))

    def test_unknown_architecture(self) -> None:
        path = self.file("architecture.gguf", cli_model.gguf("unheard-of"))
        self.refused(1, [path, "unheard-of"], "info", path)

    def test_names_with_control_characters_stay_on_one_line(self) -> None:
        self.refused(1, ["new?line"], "info", str(Path(self.folder.name) / "new\nline.gguf"))

    def test_an_output_file_that_cannot_be_written(self) -> None:
        if not self.devices:
            self.skipTest("no device here")
        path = str(Path(self.folder.name) / "no" / "such" / "folder.npy")
        self.refused(1, [path], "logits", self.model, "--tokens", "1", "--device", self.devices[0], "-o", path)

    # ---- devices and sizes ----

    def test_unknown_device(self) -> None:
        for name in ("nothing:0", "cpu:99", "cpu:x", ":", "cpu:0?nonsense=1"):
            self.refused(1, [], "run", self.model, "-p", "Hi", "--prefill", name, "--decode", name)
        self.refused(1, ["nothing:0"], "plan", self.model, "--devices", "nothing:0")

    def test_a_driver_that_is_not_there_is_one_line_and_the_rest_works(self) -> None:
        without = {"OCL_ICD_VENDORS": "/nonexistent"}
        rest = [name for name in self.devices if not name.startswith("opencl")]
        if rest == self.devices or not rest:
            self.skipTest("needs an OpenCL device and another")
        self.refused(1, ["opencl"], "run", self.model, "-p", "Hi", "--prefill", "opencl:0", "--decode", rest[0],
                     environment=without)
        done = run("run", self.model, "-p", "Hi", "-n", "1", "--prefill", rest[0], "--decode", rest[0], environment=without)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run("run", self.model, "-p", "Hi", "-n", "1", environment=without)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = run("devices", environment=without).stdout.splitlines()
        self.assertEqual(sum(line.startswith("opencl: no device: ") for line in lines), 1)

    def placed(self) -> list[str]:
        if not self.devices:
            self.skipTest("no device here")
        return ["--prefill", self.devices[0], "--decode", self.devices[0]]

    def test_prompt_longer_than_the_context(self) -> None:
        path = str(self.model)
        self.refused(1, [path], "run", path, "-p", "x" * 1000, *self.placed())
        self.refused(1, [path], "run", path, "-p", "x" * 40, "--ctx", "16", *self.placed())

    def test_not_enough_memory(self) -> None:
        path = str(self.model)
        self.refused(1, [path], "run", path, "-p", "Hi", "--ctx", "4294967295", *self.placed())

    def test_a_token_outside_the_vocabulary(self) -> None:
        self.placed()
        self.refused(1, [str(self.model), "259"], "logits", self.model, "--tokens", "1,259", "--device", self.devices[0],
                     "-o", str(Path(self.folder.name) / "x.npy"))

    # ---- usage ----

    def test_wrong_usage_is_status_2(self) -> None:
        cases: list[tuple[list[str], list[str]]] = [
            ([], []),
            (["serve"], ["serve", "unknown command"]),
            (["rnu"], ["did you mean run"]),
            (["run"], ["MODEL"]),
            (["run", "m"], ["-p"]),
            (["run", "m", "-p"], ["-p"]),
            (["run", "m", "-p", "x", "--prefil", "cpu:0"], ["did you mean --prefill"]),
            (["run", "m", "-p", "x", "--nonsense"], ["--nonsense"]),
            (["run", "m", "-p", "x", "-z"], ["-z"]),
            (["run", "m", "extra", "-p", "x"], ["extra"]),
            (["run", "m", "-p", "x", "--stats=1"], ["--stats"]),
            (["run", "m", "-p", "x", "--kv-dtype", "f64"], ["f64", "f32|f16|bf16|fp8|int8"]),
            (["run", "m", "-p", "x", "--fallback=maybe"], ["maybe"]),
            (["logits", "m"], ["--tokens"]),
            (["logits", "m", "--tokens", "1"], ["-o"]),
            (["logits", "m", "--tokens", "1", "-o", "f"], ["--device"]),
            (["logits", "m", "--tokens", "1", "-o", "f", "--prefill", "a", "--decode", "b"], ["--split"]),
            (["logits", "m", "--tokens", "1", "-o", "f", "--device", "a", "--split", "1"], ["--device"]),
            (["logits", "m", "--tokens", "1", "-o", "f", "--prefill", "a", "--decode", "b", "--split", "2"], ["--split"]),
            (["bench"], ["--shape"]),
            (["bench", "m", "--shape", "s"], ["--shape"]),
            (["bench", "m", "--write", "f"], ["--write", "--shape"]),
            (["plan", "m", "--rate", "0"], ["--rate"]),
        ]
        cases += [(["run", "m", "-p", "x", "-n", n], ["-n", n]) for n in ("0", "-1", "x", "1.5", "99999999999999999999", "1 ")]
        cases += [(["run", "m", "-p", "x", "--threads", n], ["--threads"]) for n in ("0", "many", "5000")]
        cases += [(["run", "m", "-p", "x", "--temp", t], ["--temp"]) for t in ("-1", "nan", "inf", "hot", "1x", "0x1")]
        cases += [(["run", "m", "-p", "x", "--top-p", "1.5"], ["--top-p"]), (["run", "m", "-p", "x", "--seed", "-3"], ["--seed"])]
        cases += [(["logits", "m", "-o", "f", "--device", "a", "--tokens", t], ["--tokens"])
                  for t in ("", "1,", ",1", "1,,2", "x", "1 2", "-1", "99999999999")]
        for arguments, words in cases:
            with self.subTest(arguments=arguments):
                self.refused(2, words, *arguments)

    def test_a_log_level_that_is_none(self) -> None:
        self.refused(2, ["CONSORT_LOG"], "devices", environment={"CONSORT_LOG": "loud"})

    def test_a_bench_shape_that_is_none(self) -> None:
        self.refused(1, ["llama-zero"], "bench", "--shape", "llama-zero", "--format", "Q8_0")
        self.refused(1, ["Q9"], "bench", "--shape", "llama-tiny", "--format", "Q9")

    def test_a_shape_that_cannot_be_written(self) -> None:
        self.refused(1, ["/nowhere/f"], "bench", "--shape", "llama-tiny", "--write", "/nowhere/f")


if __name__ == "__main__":
    unittest.main()
