"""Models in several files and in folders, and files that are cut or wrong: the same logits, or one error line."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import unittest
from pathlib import Path
from typing import Any

import numpy as np
from program import RANDOM, SEED, consort, consort_json, devices, scratch

import compare
import gguf
import hf_models
import reference
from gguf import GgufFile, TensorType

TOKENS = hf_models.tokens(60)
MEMORY_LIMIT_KIB = 400 * 1024
N_DAMAGED = int(os.environ.get("CONSORT_TEST_DAMAGED", 6))  # of each file


def logits(model: Path, *where: str) -> np.ndarray:
    out = scratch() / "logits.npy"
    done = consort("logits", model, "--tokens", ",".join(map(str, TOKENS)), *(where or ("--device", "cpu:0")), "-o", out)
    assert done.returncode == 0, f"{model}: {done.stderr}"
    return np.load(out)


def split(source: GgufFile, stem: Path, n: int) -> list[Path]:
    """Every n-th tensor in each of n files."""
    paths = []
    for part in range(n):
        tensors = [t for i, t in enumerate(source.tensors.values()) if i % n == part]
        keys = {"split.no": gguf.Value(gguf.ValueType.U16, part), "split.count": gguf.Value(gguf.ValueType.U16, n),
                "split.tensors.count": gguf.Value(gguf.ValueType.I32, len(source.tensors))}
        paths.append(stem.with_name(f"{stem.name}-{part + 1:05d}-of-{n:05d}.gguf"))
        gguf.write(paths[-1], (dict(source.metadata) if part == 0 else {}) | keys, tensors)
    return paths


class FormatsTest(unittest.TestCase):
    def setUp(self) -> None:
        print(f"seed {SEED} (CONSORT_TEST_SEED repeats it)")

    def assert_agrees(self, found: np.ndarray, expected: np.ndarray, limit: float) -> None:
        self.assertLessEqual(compare.compare(found, expected, limit).nmse, limit)

    def assert_refused(self, model: Path, *words: str) -> None:
        done = consort("info", model)
        self.assertEqual(done.returncode, 1, done.stdout)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith("consort: error: "), lines[0])
        for word in words:
            self.assertIn(word, lines[0])

    def test_folders_give_the_logits_of_the_file(self) -> None:
        for case in hf_models.CASES:
            with self.subTest(case=case.name):
                file = hf_models.write_gguf(case, scratch() / f"{case.name}.gguf")
                expected = reference.Reference(GgufFile.open(file)).forward(TOKENS)
                for n_shards in (1, 3):
                    folder = hf_models.write_folder(case, scratch() / f"{case.name}-{n_shards}", n_shards)
                    self.assert_agrees(logits(folder), expected, 1e-8)

    def test_folders_in_16_bits_agree_on_every_device(self) -> None:
        for name, dtype, limit in (("llama3", "F16", 1e-6), ("qwen3moe", "BF16", 5e-5)):
            case = hf_models.case(name)
            folder = hf_models.write_folder(case, scratch() / f"{name}-{dtype}", 2, dtype)
            file = hf_models.write_gguf(case, scratch() / f"{name}-{dtype}.gguf", TensorType[dtype])
            expected = reference.Reference(GgufFile.open(file)).forward(TOKENS)
            for device in devices():
                with self.subTest(dtype=dtype, device=device):
                    self.assert_agrees(logits(folder, "--device", device), expected, limit)

    def test_every_format_runs_on_every_device(self) -> None:
        """Where a device does not read it, its weights are stored in another, or the host's cores do the work."""
        for format in ("Q2_K", "Q3_K", "Q4_1", "Q5_1", "Q5_K", "IQ4_NL", "IQ4_XS"):
            for device in devices():
                with self.subTest(format=format, device=device):
                    done = consort("bench", "--shape", "llama-tiny", "--format", format, "--prefill", device, "--decode", device,
                                   "-p", 4, "-n", 2, "-r", 1)
                    self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_device_gets_weights_in_a_format_that_it_reads(self) -> None:
        case = hf_models.case("llama-yarn")
        model = hf_models.write_gguf(case, scratch() / "repacked.gguf", TensorType.Q4_0)
        expected = reference.Reference(GgufFile.open(model)).forward(TOKENS)
        env = {"CONSORT_PLUGIN_PATH": os.environ["CONSORT_TEST_BUILD"] + "/lib/consort/plugins-development"}
        out = scratch() / "repacked.npy"
        done = consort("logits", model, "--tokens", ",".join(map(str, TOKENS)), "--device", "npu-sim:0", "-o", out, env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("npu-sim:0: weights in q4_0 are stored as q8_0", done.stderr)
        self.assertNotIn("matmul", done.stderr)
        self.assert_agrees(np.load(out), expected, 5e-4)

    def test_a_split_model_opens_from_any_of_its_files(self) -> None:
        whole = hf_models.write_gguf(hf_models.case("qwen2"), scratch() / "whole.gguf")
        expected = logits(whole)
        parts = split(GgufFile.open(whole), scratch() / "part", 3)
        for path in parts:
            np.testing.assert_array_equal(logits(path), expected)
        self.assertEqual(consort_json("info", parts[0])["fingerprint"], consort_json("info", whole)["fingerprint"])
        parts[1].rename(scratch() / "aside.gguf")
        self.assert_refused(parts[0], "part-00002-of-00003.gguf", "no such file")
        shutil.copy(parts[2], parts[1])
        self.assert_refused(parts[0], "split.no")
        self.assert_refused((scratch() / "aside.gguf"), "does not end in")

    def test_an_index_cannot_leave_its_folder(self) -> None:
        folder = hf_models.write_folder(hf_models.case("llama"), scratch() / "escape", 2)
        index = folder / "model.safetensors.index.json"
        for name in ("../escape/x.safetensors", "/dev/zero", ".."):
            index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
            self.assert_refused(folder, "outside the folder")
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": 3}}))
        self.assert_refused(folder, "weight_map")

    def test_configurations_that_are_not_served_are_named(self) -> None:
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("llama", {"model_type": "bert"}, '"bert" is not supported'), ("llama", {"model_type": None}, "model_type"),
            ("llama", {"hidden_size": None}, '"hidden_size" is missing'), ("llama", {"hidden_size": "x"}, "whole number"),
            ("llama", {"hidden_size": -4}, "whole number"), ("llama", {"num_hidden_layers": 4000000000}, "too few"),
            ("llama", {"hidden_act": "gelu"}, "hidden_act"), ("llama", {"quantization_config": {}}, "quantization_config"),
            ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, '"dynamic" is not supported'),
            ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope.scaling.factor"),
            ("llama", {"rope_scaling": {}}, "rope_type"), ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
            ("llama", {"num_hidden_layers": 2}, "is not part of this architecture"),
            ("llama", {"num_hidden_layers": 4}, "is missing"),
            ("llama", {"intermediate_size": 97}, "where the metadata implies (97, 64)"),
            ("qwen3moe", {"num_experts": 7}, "6 of 7 experts"), ("qwen3moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
            ("qwen3moe", {"num_experts": 5}, "is not part of this architecture"),
            ("qwen3moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
            ("qwen2-window", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ]
        for name, change, word in wrong:
            with self.subTest(change=change):
                folder = hf_models.write_folder(hf_models.case(name), scratch() / f"wrong-{name}")
                (folder / "config.json").write_text(json.dumps(hf_models.case(name).settings() | change))
                self.assert_refused(folder, word)

    def test_an_expert_too_few_is_told(self) -> None:
        case = hf_models.case("mixtral")
        folder = hf_models.write_folder(case, scratch() / "few")
        tensors = hf_models.hf_tensors(case)
        del tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
        hf_models.write_safetensors(folder / "model.safetensors", tensors)
        self.assert_refused(folder, "blk.1.ffn_down_exps.weight", "7 of 8 experts")

    def check_damaged(self, victim: Path, model: Path, n: int) -> None:
        """Cut anywhere, or with bytes flipped (most of them in the head): it opens, or says why not in one line."""
        good = victim.read_bytes()
        for _ in range(n):
            data = bytearray(good)
            if RANDOM.random() < 0.3:
                del data[RANDOM.randrange(len(data)):]
            else:
                for _ in range(RANDOM.choice((1, 1, 2, 8))):
                    data[RANDOM.randrange(min(len(data), RANDOM.choice((64, 1024, len(data)))))] ^= 1 << RANDOM.randrange(8)
            victim.write_bytes(data)
            done = consort("info", model, timeout=20)
            self.assertIn(done.returncode, (0, 1), f"{victim.name}: {done.stderr}")
            if done.returncode == 1:
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
                self.assertIn("consort: error: ", done.stderr)
        victim.write_bytes(good)

    def test_damaged_files_end_in_an_error_line(self) -> None:
        case = hf_models.case("mixtral")
        folder = hf_models.write_folder(case, scratch() / "damaged", 2)
        file = hf_models.write_gguf(case, scratch() / "damaged.gguf")
        parts = split(GgufFile.open(file), scratch() / "damaged-part", 2)
        for victim, model in ((folder / "config.json", folder), (folder / "model.safetensors.index.json", folder),
                              (folder / "model-00002-of-00002.safetensors", folder), (file, file), (parts[1], parts[0]),
                              (parts[0], parts[1])):
            self.check_damaged(victim, model, N_DAMAGED)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.assertLess(peak, MEMORY_LIMIT_KIB)

    def test_a_header_larger_than_the_file_is_told_at_once(self) -> None:
        folder = hf_models.write_folder(hf_models.case("llama"), scratch() / "header")
        for length in (1 << 63, 1 << 40, 100 << 20):
            (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
            self.assert_refused(folder, "model.safetensors", "header")


if __name__ == "__main__":
    unittest.main(verbosity=2)
