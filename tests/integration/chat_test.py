#!/usr/bin/env python3
"""consort run --chat and consort tokenize on a tokenizer.json, as a user meets them."""
import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

PROGRAM = os.environ["CONSORT_TEST_PROGRAM"]
SOURCE = Path(__file__).resolve().parents[2]
MODEL = SOURCE / "models" / "demo" / "consort-demo-f32.gguf"
DEVICE = ["--prefill", "cpu:0", "--decode", "cpu:0"]
TEMPLATE = ("{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no') }}{% endif %}"
            "{{ m.content }} {% endfor %}")


def run(*arguments, text=None):
    done = subprocess.run([PROGRAM, *map(str, arguments)], input=text, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def errors(stderr):
    return [line for line in stderr.splitlines() if line.startswith("consort: error")]


class Chat(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.template = Path(self.folder.name, "t.jinja")
        self.template.write_text(TEMPLATE, encoding="utf-8")

    def test_a_prompt_is_answered_by_the_given_template(self):
        chat = run("run", MODEL, "--chat", "-p", "upon a time", "--system", "Once", "--chat-template", self.template,
                   "-n", 8, "--json", *DEVICE)
        self.assertEqual(chat[0], 0, chat[2])
        ids = [t["id"] for t in json.loads(run("tokenize", MODEL, "Once upon a time ", "--json")[1])["tokens"]]
        answer = json.loads(chat[1])
        self.assertIn(answer["prompt_tokens"], (len(ids), len(ids) - 1))  # without BOS
        self.assertEqual(len(answer["tokens"]), 8)

    def test_each_line_is_a_turn(self):
        status, out, err = run("run", MODEL, "--chat", "--chat-template", self.template, "-n", 4, *DEVICE,
                               text="Once upon\n\na time\n")
        self.assertEqual(status, 0, err)
        self.assertGreaterEqual(out.count("\n"), 2)
        first = run("run", MODEL, "--chat", "--chat-template", self.template, "-n", 4, "-p", "Once upon", *DEVICE)[1]
        self.assertTrue(out.startswith(first))

    def test_what_is_wrong_is_one_line(self):
        self.template.write_text("{% if %}", encoding="utf-8")
        for arguments, reason in ((["--chat-template", self.template], "line 1"),
                                  (["--chat-template", "/nowhere"], "/nowhere: cannot be read: No such file"), ([], "--chat-template")):
            status, out, err = run("run", MODEL, "--chat", "-p", "x", "-n", 1, *arguments, *DEVICE)
            self.assertEqual((status, out), (1, ""), err)
            self.assertEqual(len(errors(err)), 1, err)
            self.assertIn(reason, err)
        self.assertEqual(run("run", MODEL, "-p", "x", "--system", "y")[0], 2)

    def test_a_tokenizer_json_and_its_folder_give_the_same(self):
        data = SOURCE / "tests" / "data" / "tokenizers" / "bytes.json"
        Path(self.folder.name, "tokenizer.json").write_bytes(data.read_bytes())
        Path(self.folder.name, "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
        alone = run("tokenize", data, "Hello <|im_end|>", "--json")
        folder = run("tokenize", self.folder.name, "Hello <|im_end|>", "--json")
        self.assertEqual(alone[0], 0, alone[2])
        self.assertEqual(alone[1], folder[1])
        self.assertEqual(json.loads(alone[1])["tokens"][-1]["piece"], "<|im_end|>")

    def test_cut_and_flipped_files_are_refused_in_one_line(self):
        data = (SOURCE / "tests" / "data" / "tokenizers" / "sentences.json").read_bytes()
        broken = Path(self.folder.name, "tokenizer.json")
        for i in range(12):
            damaged = bytearray(data[:len(data) * (i + 1) // 13] if i < 6 else data)
            if i >= 6:
                damaged[len(data) * i // 13] ^= 1 << i % 8
            broken.write_bytes(damaged)
            status, _, err = run("tokenize", broken, "a b")
            self.assertIn(status, (0, 1))
            self.assertEqual(len(errors(err)), status, err)


if __name__ == "__main__":
    unittest.main(verbosity=0)
