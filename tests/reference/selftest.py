"""Checks the reference tools themselves: python3 selftest.py

A real model (stories260K.gguf under CONSORT_TEST_DATA/models) is used where it is found; else these tests report skipped.
"""

from __future__ import annotations

import os
import struct
import tempfile
import unittest
from pathlib import Path

import numpy as np

import compare
import make_model
import spm
from gguf import VALUE_TYPES, GgufError, GgufFile, Tensor, TensorType, Value, ValueType, array, dequantize, quantize, write
from reference import Reference, greedy

STORIES = Path(os.environ.get("CONSORT_TEST_DATA", "")) / "models" / "stories260K.gguf"


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "model.gguf"

    def make(self, *options: str) -> GgufFile:
        make_model.main([str(self.path), *options])
        return GgufFile.open(self.path)


class GgufTest(Folder):
    def test_every_value_type_survives_writing_and_reading(self) -> None:
        nested = Value(ValueType.ARRAY, [array(ValueType.U16, [1, 2]), array(ValueType.STRING, ["", "\u2581a"])], ValueType.ARRAY)
        numbers = {t: 7 for t in ValueType if t not in (ValueType.STRING, ValueType.ARRAY, ValueType.BOOL)}
        metadata = {t.name: Value(t, n) for t, n in numbers.items()}
        metadata |= {"bool": Value(ValueType.BOOL, True), "string": Value(ValueType.STRING, "\u00e9"), "nested": nested}
        metadata["general.alignment"] = Value(ValueType.U32, 128)
        tensors = [Tensor.pack(f"t{i}", np.full((3, 5), i), TensorType.F32) for i in range(3)]
        write(self.path, metadata, tensors)
        file = GgufFile.open(self.path)
        self.assertEqual(file.metadata, metadata)
        for i in range(3):
            np.testing.assert_array_equal(file.array(f"t{i}"), np.full((3, 5), i))

    def test_a_file_cut_short_anywhere_is_refused(self) -> None:
        self.make("--layers", "1", "--embd", "32", "--heads", "1", "--kv-heads", "1", "--ffn", "32", "--vocab", "260")
        whole = self.path.read_bytes()
        for size in [*range(1, len(whole), 997), len(whole) - 1]:
            self.path.write_bytes(whole[:size])
            with self.assertRaises(GgufError, msg=f"{size} bytes"):
                GgufFile.open(self.path)

    def test_quantized_values_are_within_half_a_step(self) -> None:
        x = np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)
        x[0] = 0
        largest = np.abs(x.reshape(-1, 32)).max(axis=1)[:, None]
        for type, steps in ((TensorType.Q8_0, 0.5 / 127), (TensorType.Q4_0, 1.0 / 8)):
            error = np.abs(dequantize(quantize(x, type), type, x.shape) - x).reshape(-1, 32)
            self.assertTrue((error <= largest * (steps + 1e-3)).all(), type.name)
        for type, precision in ((TensorType.F32, 0.0), (TensorType.F16, 2.0 ** -11), (TensorType.BF16, 2.0 ** -8)):
            error = np.abs(dequantize(quantize(x, type), type, x.shape) - x)
            self.assertTrue((error <= np.abs(x) * precision + 1e-7 * (precision > 0)).all(), type.name)

    def test_what_is_stored_is_stored_again_alike(self) -> None:
        x = np.random.default_rng(2).standard_normal((8, 64))
        for type in VALUE_TYPES:
            once = quantize(x, type)
            again = quantize(dequantize(once, type, x.shape), type)
            np.testing.assert_array_equal(dequantize(again, type, x.shape), dequantize(once, type, x.shape), type.name)

    def test_blocks_have_the_published_layout(self) -> None:
        q8 = struct.pack("<e32b", 0.5, *range(-16, 16))
        q4 = struct.pack("<e16B", -2.0, *(low | (15 - low) << 4 for low in range(16)))
        values = dequantize(np.frombuffer(q8, np.uint8), TensorType.Q8_0, (32,))
        np.testing.assert_array_equal(values, np.arange(-16, 16) * 0.5)
        values = dequantize(np.frombuffer(q4, np.uint8), TensorType.Q4_0, (32,))
        np.testing.assert_array_equal(values, np.concatenate((np.arange(-8, 8), np.arange(7, -9, -1))) * -2.0)


class ReferenceTest(Folder):
    TOKENS = [1, 300, 45, 7, 299, 260, 3]

    def test_token_by_token_gives_the_logits_of_all_at_once(self) -> None:
        for options in ([], ["--tied", "--rope-freqs"], ["--head-dim", "24", "--rope-dim", "16"], ["--dtype", "q4_0"]):
            file = self.make(*options)
            at_once, stepwise = Reference(file), Reference(file)
            rows = [stepwise.forward([token])[0] for token in self.TOKENS]
            np.testing.assert_allclose(np.stack(rows), at_once.forward(self.TOKENS), rtol=1e-10, atol=1e-12)

    def test_random_models_have_logits_of_order_one(self) -> None:
        for options in ([], ["--tied"], ["--layers", "6", "--embd", "256", "--heads", "8"]):
            rms = np.sqrt(np.mean(Reference(self.make(*options)).forward(self.TOKENS) ** 2))
            self.assertTrue(0.3 < rms < 3, f"{options}: RMS {rms}")

    def test_each_option_shows_in_the_logits(self) -> None:
        def logits(*options: str) -> np.ndarray:
            return Reference(self.make("--scale-embeddings", "0.003", *options)).forward(self.TOKENS)

        plain = logits()
        for options in (["--eps", "1e-6"], ["--rope-base", "500000"], ["--rope-freqs"], ["--rope-dim", "8"],
                        ["--seed", "2"], ["--dtype", "bf16"]):
            self.assertGreater(compare.compare(logits(*options), plain, 1e-6).nmse, 1e-8, options)

    def test_a_vocabulary_alone_encodes(self) -> None:
        file = self.make("--vocab-only", "--vocab", "1100")
        self.assertEqual(file.tensors, {})
        tokenizer = spm.Tokenizer(file)
        for text in ("ab cde", " two  spaces", "\u00e9\n!", ""):
            self.assertEqual(tokenizer.decode(tokenizer.encode(text)), text)

    def test_a_wrong_argmax_is_allowed_only_at_a_near_tie(self) -> None:
        b = np.zeros((2, 8))
        b[0, :2], b[1, :2] = (5.0, 4.999), (5.0, 3.0)
        a = b.copy()
        a[0, 1] = 5.001
        self.assertEqual(compare.compare(a, b, 1e-6).n_wrong, 0)
        a[1, 1] = 5.001
        self.assertEqual(compare.compare(a, b, 1e-6).n_wrong, 1)
        a[0, 0] = np.nan
        self.assertEqual(compare.compare(a, b, 1e-6).nmse, np.inf)


@unittest.skipUnless(STORIES.is_file(), "stories260K.gguf not found: set CONSORT_TEST_DATA")
class StoriesTest(unittest.TestCase):
    def test_greedy_text_is_the_known_story(self) -> None:
        file = GgufFile.open(STORIES)
        tokenizer = spm.Tokenizer(file)
        tokens = tokenizer.encode("Once upon a time")
        self.assertEqual(tokens, [1, 403, 407, 261, 378])
        text = tokenizer.decode(tokens + greedy(Reference(file), tokens, 40))
        self.assertEqual(text, "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
                               "One day, she saw a big, red ball.")


if __name__ == "__main__":
    unittest.main()
