"""`consort quantize`: which format each tensor gets, that the errors it reports are those of the file, and that a file appears
complete or not at all."""

from __future__ import annotations

import dataclasses
import json
import unittest
import unittest.mock
from pathlib import Path
from typing import Any

import numpy as np
from program import consort, consort_json, scratch

import compare
import hf_models
from gguf import GgufFile

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}
TOKENS = ",".join(map(str, hf_models.tokens(40)))


def wide(name: str, **more: Any) -> hf_models.Case:
    """The case with rows that are whole blocks of 256."""
    case = hf_models.case(name)
    return dataclasses.replace(case, config={**case.config, **WIDE, **more})


def quantize(source: Path, out: Path, type: str) -> dict[str, Any]:
    return consort_json("quantize", source, out, "--type", type)


class QuantizeTest(unittest.TestCase):
    def formats(self, result: dict[str, Any]) -> dict[str, str]:
        return {t["name"]: t["to"] for t in result["tensors"]}

    def test_types_mix_formats_as_llama_cpp_does(self) -> None:
        folder = hf_models.write_folder(wide("llama"), scratch() / "mix")
        expected = {  # of three layers, the last and the second of three get more bits
            "Q8_0": {"output.weight": "q8_0", "token_embd.weight": "q8_0", "blk.0.attn_v.weight": "q8_0"},
            "Q4_0": {"output.weight": "q6_k", "token_embd.weight": "q4_0", "blk.2.ffn_down.weight": "q4_0"},
            "Q6_K": {"output.weight": "q6_k", "token_embd.weight": "q6_k", "blk.0.attn_q.weight": "q6_k"},
            "Q4_K_M": {"output.weight": "q6_k", "token_embd.weight": "q4_k", "blk.0.attn_v.weight": "q4_k",
                       "blk.2.attn_v.weight": "q6_k", "blk.0.ffn_down.weight": "q4_k", "blk.2.ffn_down.weight": "q6_k",
                       "blk.2.ffn_up.weight": "q4_k", "blk.2.attn_output.weight": "q4_k"},
        }
        for type, wanted in expected.items():
            found = self.formats(quantize(folder, scratch() / f"mix-{type}.gguf", type))
            self.assertEqual({name: found[name] for name in wanted}, wanted, type)
            self.assertEqual({found[f"blk.{i}.attn_norm.weight"] for i in range(3)}, {"f32"})

    def test_eight_experts_keep_keys_and_values_and_routers(self) -> None:
        folder = hf_models.write_folder(wide("mixtral"), scratch() / "eight")
        found = self.formats(quantize(folder, scratch() / "eight.gguf", "Q4_K_M"))
        self.assertEqual([found[f"blk.0.{n}.weight"] for n in ("attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_up_exps")],
                         ["q8_0", "q8_0", "q5_k", "f32", "q4_k"])
        self.assertEqual(found["blk.2.ffn_down_exps.weight"], "q6_k")

    def test_rows_that_no_block_divides_get_another_format(self) -> None:
        source = hf_models.write_gguf(hf_models.case("llama"), scratch() / "narrow.gguf")
        found = self.formats(quantize(source, scratch() / "narrow-q.gguf", "Q4_K_M"))
        self.assertEqual((found["output.weight"], found["blk.0.attn_q.weight"]), ("q8_0", "q5_0"))

    def test_a_folder_and_its_gguf_file_give_the_same_weights(self) -> None:
        """Rows of query and key are put in the converter's order, experts are joined, llama3 scaling becomes a table."""
        for name in ("llama3", "mixtral", "qwen3moe"):
            case = wide(name)
            made = []
            for source in (hf_models.write_folder(case, scratch() / f"same-{name}", 2),
                           hf_models.write_gguf(case, scratch() / f"same-{name}.gguf")):
                out = scratch() / "same-out.gguf"
                quantize(source, out, "Q8_0")
                file = GgufFile.open(out)
                made.append({t.name: t.data.tobytes() for t in file.tensors.values() if t.name != "rope_freqs.weight"})
                if name == "llama3":
                    np.testing.assert_allclose(file.array("rope_freqs.weight"), hf_models.llama3_factors(case.settings()), 1e-6)
                    self.assertNotIn("llama.rope.scaling.type", file.metadata)
            self.assertEqual(made[0], made[1])

    def test_reported_errors_are_those_of_the_file(self) -> None:
        case = wide("llama")
        folder = hf_models.write_folder(case, scratch() / "errors")
        exact = hf_models.gguf_tensors(case)
        for type in ("Q8_0", "Q4_0"):
            out = scratch() / "errors.gguf"
            for tensor in quantize(folder, out, type)["tensors"]:
                if tensor["to"] not in ("q8_0", "q4_0"):
                    continue
                found = GgufFile.open(out).array(tensor["name"])
                off = found.astype(np.float64) - exact[tensor["name"]]
                nmse = float(np.sum(off**2) / np.sum(exact[tensor["name"]].astype(np.float64) ** 2))
                self.assertAlmostEqual(tensor["nmse"] / nmse, 1, 6)
                self.assertAlmostEqual(tensor["rmse"] / float(np.sqrt(np.mean(off**2))), 1, 6)
                self.assertLess(nmse, 3e-5 if type == "Q8_0" else 5e-3)

    def test_logits_stay_near_those_of_the_source(self) -> None:
        limits = {"Q8_0": 2e-3, "Q6_K": 4e-3, "Q4_K_M": 5e-2, "Q4_0": 8e-2}
        for name in ("llama-yarn", "qwen3moe-plain"):
            folder = hf_models.write_folder(wide(name, moe_intermediate_size=256), scratch() / f"near-{name}")
            expected = self.logits(folder)
            for type, limit in limits.items():
                out = scratch() / f"near-{type}.gguf"
                result = quantize(folder, out, type)
                nmse = compare.compare(self.logits(out), expected, limit).nmse
                print(f"{name:16} {type:7} NMSE of weights {result['nmse']:.1e}, of logits {nmse:.1e}")
                self.assertLessEqual(nmse, limit if "moe" not in name else 4 * limit)
                self.assertEqual(consort_json("info", out)["n_layers"], 3)

    def test_a_folder_brings_its_tokenizer_and_chat_template(self) -> None:
        data = Path(__file__).parents[1] / "data" / "tokenizers"
        tokenizer = json.loads((data / "bytes.json").read_text(encoding="utf-8"))
        variant = json.loads((data / "variants.json").read_text(encoding="utf-8"))["qwen2"]
        tokenizer.update(variant["set"])
        with unittest.mock.patch.object(hf_models, "N_VOCAB", 1408):
            folder = hf_models.write_folder(wide("qwen2", vocab_size=1408), scratch() / "words")
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(
            {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"},
             "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"}]}))
        out = scratch() / "words.gguf"
        done = consort("quantize", folder, out, "--type", "Q8_0")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        metadata = {key: value.data for key, value in GgufFile.open(out).metadata.items()}
        expected = {"model": "gpt2", "pre": "qwen2", "eos_token_id": 1402, "padding_token_id": 1400, "add_bos_token": False}
        self.assertEqual({key: metadata[f"tokenizer.ggml.{key}"] for key in expected}, expected)
        self.assertEqual(metadata["tokenizer.chat_template"], "{{ messages }}")
        self.assertEqual(metadata["tokenizer.chat_template.tool_use"], "{{ tools }}")
        self.assertEqual(metadata["tokenizer.ggml.tokens"][1405:], ["[PAD1405]", "[PAD1406]", "[PAD1407]"])
        for text in ("The 1234 caf\u00e9s, e\u0301t\u00e9!", "<|im_start|>user\n<tool>  x<|im_end|>"):
            self.assertEqual(consort_json("tokenize", out, text), consort_json("tokenize", folder, text))
        tokenizer["normalizer"] = {"type": "Lowercase"}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        done = consort("quantize", folder, out, "--type", "Q8_0")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stderr.splitlines(), [
            "consort: the file has no tokenizer: tokenizer.json: no name for tokenizer.ggml.pre stands for its normalizer, "
            "pre_tokenizer and ignore_merges"])
        self.assertEqual(GgufFile.open(out).metadata["tokenizer.ggml.model"].data, "none")

    def logits(self, model: Path) -> np.ndarray:
        out = scratch() / "logits.npy"
        done = consort("logits", model, "--tokens", TOKENS, "--device", "cpu:0", "-o", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        return np.load(out)

    def test_one_file_is_quantized_again_with_any_number_of_threads(self) -> None:
        first, again, threads = (scratch() / n for n in ("first.gguf", "again.gguf", "threads.gguf"))
        quantize(hf_models.write_folder(wide("qwen2"), scratch() / "twice"), first, "Q4_K_M")
        quantize(first, again, "Q8_0")
        done = consort("quantize", first, threads, "--type", "Q8_0", "--threads", 3)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(again.read_bytes(), threads.read_bytes())
        self.assertIn("NMSE", done.stdout)

    def test_nothing_is_left_where_it_fails(self) -> None:
        source = hf_models.write_gguf(hf_models.case("llama"), scratch() / "whole.gguf")
        place = scratch() / "place"
        place.mkdir()
        values = hf_models.hf_tensors(hf_models.case("llama"))
        values["model.norm.weight"][3] = np.nan
        broken = hf_models.write_folder(hf_models.case("llama"), scratch() / "nan")
        hf_models.write_safetensors(broken / "model.safetensors", values)
        for arguments, word in (((source, source, "--type", "Q8_0"), "is the source itself"),
                                ((source, place, "--type", "Q8_0"), "is a folder"),
                                ((source, place / "no" / "x.gguf", "--type", "Q8_0"), "No such file"),
                                ((scratch() / "none", place / "x.gguf", "--type", "Q8_0"), "no such file"),
                                ((broken, place / "x.gguf", "--type", "Q8_0"), "NaN")):
            done = consort("quantize", *arguments)
            self.assertEqual(done.returncode, 1)
            lines = [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]
            self.assertEqual(len(lines), 1, done.stderr)
            self.assertIn(word, lines[0])
        self.assertEqual(list(place.iterdir()), [])
        (place / "kept.gguf").write_bytes(b"old")
        self.assertEqual(consort("quantize", broken, place / "kept.gguf", "--type", "Q8_0").returncode, 1)
        self.assertEqual((place / "kept.gguf").read_bytes(), b"old")
        (place / "kept.gguf").unlink()
        self.assertEqual(consort("quantize", source, place / "x.gguf").returncode, 2)
        self.assertEqual(consort("quantize", source, place / "x.gguf", "--type", "Q9_9").returncode, 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
