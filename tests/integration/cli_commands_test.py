"""Every command of the program does what its page says, JSON included."""

from __future__ import annotations

import ast
import math
import os
import re
import signal
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import cli_model
from cli_model import CLI, N_CONTEXT, N_VOCAB, run, run_json


class Commands(unittest.TestCase):
    folder: tempfile.TemporaryDirectory
    model: Path
    device: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        os.environ["XDG_CACHE_HOME"] = str(Path(cls.folder.name) / "cache")
        cls.model = cli_model.write_model(Path(cls.folder.name))
        names = cli_model.device_names()
        if not names:
            raise unittest.SkipTest("no device here")
        cls.device = names[0]

    def placed(self) -> list[str]:
        return ["--prefill", self.device, "--decode", self.device]

    # ---- devices, info, tokenize ----

    def test_devices_are_listed_with_all_keys(self) -> None:
        plugins = run_json("devices")["plugins"]
        self.assertTrue(plugins)
        for plugin in plugins:
            self.assertLessEqual({"name", "version", "vendor", "manifest", "library", "failure", "devices"}, plugin.keys())
            for i, device in enumerate(plugin["devices"]):
                self.assertEqual(device["name"], f"{plugin['name']}:{i}")
                self.assertLessEqual({"type", "description", "driver", "memory_bytes", "memory_domain", "compute_domain",
                                      "dtypes", "kv_dtypes", "host_resident", "software"}, device.keys())
                self.assertGreater(device["memory_bytes"], 0)
                self.assertIn(device["name"], run("devices").stdout)

    def test_a_plugin_that_cannot_start_is_told_in_one_line(self) -> None:
        (Path(self.folder.name) / "broken.plugin").write_text(
            f"name = broken\nlibrary = nowhere.so\nabi_min = 0\nabi_max = 0\narchitecture = {os.uname().machine}\n")
        environment = {"CONSORT_PLUGIN_PATH": self.folder.name}
        broken = [p for p in run_json("devices", environment=environment)["plugins"] if p["name"] == "broken"]
        self.assertEqual(len(broken), 1)
        self.assertTrue(broken[0]["failure"])
        self.assertNotIn("\n", broken[0]["failure"])
        lines = run("devices", environment=environment).stdout.splitlines()
        self.assertEqual(sum(line.startswith("broken: no device: ") for line in lines), 1)
        self.assertTrue(any(self.device in line for line in lines), "the others go on")

    def test_info_tells_what_the_file_holds(self) -> None:
        info = run_json("info", self.model)
        expected = {"architecture": "llama", "name": "tiny", "n_layers": 1, "n_embd": 32, "n_heads": 4, "n_kv_heads": 2,
                    "head_dim": 8, "n_ff": 64, "n_vocab": N_VOCAB, "n_context": N_CONTEXT, "tied_embeddings": False,
                    "format": "f32", "file_bytes": self.model.stat().st_size}
        self.assertEqual(expected, {k: info[k] for k in expected})
        self.assertEqual(info["tokenizer"], {"model": "llama", "n_vocab": N_VOCAB, "bos": 1, "eos": 2})
        self.assertEqual(info["memory"], [{"n_context": N_CONTEXT, "kv_bytes": 2 * 2 * 2 * 8 * N_CONTEXT,
                                           "total_bytes": 2 * 2 * 2 * 8 * N_CONTEXT + info["weight_bytes"],
                                           "kv_bytes_int8": 2 * 2 * (8 + 4) * N_CONTEXT, "kv_bytes_fp8": 2 * 2 * 8 * N_CONTEXT}])
        tensors = {t["name"]: t for t in info["tensors"]}
        self.assertEqual({n: list(s) for n, s in cli_model.tensor_shapes()}, {n: t["shape"] for n, t in tensors.items()})
        self.assertEqual(tensors["blk.0.ffn_up.weight"]["bytes"], 64 * 32 * 4)
        text = run("info", self.model).stdout
        for word in ("llama", "blk.0.ffn_up.weight", "memory by context length", str(N_CONTEXT)):
            self.assertIn(word, text)

    def test_tokenize_gives_ids_and_pieces(self) -> None:
        tokens = run_json("tokenize", self.model, "Hi")["tokens"]
        self.assertEqual(tokens[0], {"id": 1, "piece": "<s>"})
        self.assertEqual([t["piece"] for t in tokens[-2:]], ["<0x48>", "<0x69>"])
        plain = run_json("tokenize", self.model, "Hi", "--no-special")["tokens"]
        self.assertEqual(plain, tokens[1:])
        self.assertIn("<0x48>", run("tokenize", self.model, "Hi").stdout)

    def test_tokenize_works_on_a_vocabulary_alone_of_any_architecture(self) -> None:
        path = Path(self.folder.name) / "vocabulary.gguf"
        path.write_bytes(cli_model.gguf("unheard-of", vocabulary_only=True))
        self.assertEqual(len(run_json("tokenize", path, "Hi", "--no-special")["tokens"]),
                         len(run_json("tokenize", self.model, "Hi", "--no-special")["tokens"]))

    # ---- run ----

    def test_run_prints_one_object_with_the_keys_of_its_page(self) -> None:
        result = run_json("run", self.model, "-p", "Hi", "-n", "4", *self.placed())
        self.assertLessEqual({"text", "tokens", "prompt_tokens", "ttft_ms", "tpot_ms", "prefill", "decode", "kv_transfer",
                              "fallbacks"}, result.keys())
        self.assertLessEqual({"device", "tokens_per_s"}, result["prefill"].keys())
        self.assertEqual(result["decode"]["device"], self.device)
        self.assertLessEqual({"bytes", "ms", "exposed_ms", "pieces", "verified"}, result["kv_transfer"].keys())
        self.assertLessEqual(len(result["tokens"]), 4)
        self.assertEqual(result["prompt_tokens"], len(run_json("tokenize", self.model, "Hi")["tokens"]))

    def test_stats_have_the_device_time_their_ops(self) -> None:
        arguments = ("run", self.model, "-p", "Hi", "-n", "4", "--temp", "0", *self.placed())
        self.assertEqual(run_json(*arguments)["op_times"], [])
        times = run_json(*arguments, "--stats")["op_times"]
        self.assertEqual([t["ms"] for t in times], sorted((t["ms"] for t in times), reverse=True))
        self.assertAlmostEqual(sum(t["share"] for t in times), 1, places=6)
        by_op = {t["op"]: t for t in times}
        self.assertGreater(by_op["matmul"]["count"], by_op["attention_paged"]["count"])
        self.assertEqual((by_op["matmul"]["device"], by_op["matmul"]["decode"]), (self.device, True))
        self.assertIn("device time", run(*arguments, "--stats").stderr)

    def test_run_streams_the_same_text_that_json_holds(self) -> None:
        arguments = ["run", self.model, "-p", "Hi", "-n", "8", "--temp", "0.9", "--seed", "7", *self.placed()]
        done = run(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.rstrip("\n"), run_json(*arguments)["text"].rstrip("\n"))

    def test_a_stop_string_ends_the_text_before_it(self) -> None:
        arguments = ["run", self.model, "-p", "Hi", "-n", "16", *self.placed()]
        whole = run_json(*arguments)
        self.assertEqual(whole["finish"], "length")
        stop = re.search(r"[A-Za-z]+", whole["text"]).group()
        cut = run_json(*arguments, "--stop", "no such text", "--stop", stop)
        self.assertEqual(cut["text"], whole["text"][:whole["text"].index(stop)])
        self.assertEqual(cut["finish"], "stop")
        streamed = run(*arguments, "--stop", stop)
        self.assertEqual(streamed.stdout.rstrip("\n"), cut["text"].rstrip("\n"))
        self.assertEqual(run("run", self.model, "-p", "Hi", "--stop", "", *self.placed()).returncode, 1)

    def test_logprobs_are_those_of_the_logits(self) -> None:
        result = run_json("run", self.model, "-p", "Hi", "-n", "3", "--logprobs", "3", "--temp", "1.5", "--kv-dtype", "f32",
                          *self.placed())
        prompt = [t["id"] for t in run_json("tokenize", self.model, "Hi")["tokens"]]
        tokens = prompt + result["tokens"]
        output = Path(self.folder.name) / "logprobs.npy"
        done = run("logits", self.model, "--tokens", ",".join(map(str, tokens)), "--device", self.device, "-o", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        values = struct.unpack(f"<{len(tokens) * N_VOCAB}f", output.read_bytes()[-4 * len(tokens) * N_VOCAB:])
        for i, (told, token) in enumerate(zip(result["logprobs"], result["tokens"], strict=True), len(prompt) - 1):
            row = values[i * N_VOCAB:(i + 1) * N_VOCAB]
            normalizer = math.log(math.fsum(math.exp(v - max(row)) for v in row)) + max(row)
            self.assertEqual(told["token"], token)
            self.assertAlmostEqual(told["logprob"], row[token] - normalizer, places=4)
            self.assertEqual([t["token"] for t in told["top"]], sorted(range(N_VOCAB), key=lambda t: -row[t])[:2])

    def test_a_banned_token_does_not_come(self) -> None:
        arguments = ["run", self.model, "-p", "Hi", "-n", "8", *self.placed()]
        first = run_json(*arguments)["tokens"][0]
        self.assertNotIn(first, run_json(*arguments, "--logit-bias", f"{first}=-inf")["tokens"])
        bad = run(*arguments, "--logit-bias", "5=x")
        self.assertEqual(bad.returncode, 2)
        self.assertIn("--logit-bias", bad.stderr)

    def test_the_planner_says_why_unless_both_devices_are_given(self) -> None:
        chosen = run("run", self.model, "-p", "Hi", "-n", "1")
        self.assertEqual(chosen.returncode, 0, chosen.stderr)
        self.assertEqual(sum(line.startswith("consort: plan: ") for line in chosen.stderr.splitlines()), 1)
        self.assertNotIn("plan", run("run", self.model, "-p", "Hi", "-n", "1", *self.placed()).stderr)

    def test_stats_go_to_standard_error(self) -> None:
        done = run("run", self.model, "-p", "Hi", "-n", "3", "--stats", *self.placed())
        for word in ("prefill", "decode", "TTFT", "TPOT", "KV", "fallbacks"):
            self.assertIn(word, done.stderr)
            self.assertNotIn(word, done.stdout)

    def test_interrupt_ends_a_run_in_order(self) -> None:
        with subprocess.Popen([CLI, "run", str(self.model), "-p", "Hi", "-n", "60000", "--ctx", "65000", "--temp", "1",
                               *self.placed()],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            _, errors = process.communicate(timeout=20)
            if process.returncode == 0:
                self.skipTest("the generation ended before the signal came")
            self.assertEqual(process.returncode, 130, errors)
            self.assertLess(time.monotonic() - begin, 10)
            self.assertNotIn(b"error", errors)

    def test_a_reader_that_leaves_ends_the_run_without_a_word(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([CLI, "run", str(self.model), "-p", "Hi", "-n", "50", *self.placed()], stdout=writing,
                              stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(writing)
        self.assertEqual((done.returncode, done.stderr), (141, b""))

    # ---- logits ----

    def test_logits_are_a_numpy_file(self) -> None:
        path = Path(self.folder.name) / "logits.npy"
        done = run("logits", self.model, "--tokens", "1,75,108", "--device", self.device, "-o", path)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        data = path.read_bytes()
        self.assertEqual(data[:8], b"\x93NUMPY\x01\x00")
        header_bytes = struct.unpack("<H", data[8:10])[0]
        self.assertEqual((10 + header_bytes) % 64, 0)
        header = ast.literal_eval(data[10 : 10 + header_bytes].decode())
        self.assertEqual(header, {"descr": "<f4", "fortran_order": False, "shape": (3, N_VOCAB)})
        self.assertEqual(len(data), 10 + header_bytes + 4 * 3 * N_VOCAB)

    def test_split_rows_agree_with_one_device(self) -> None:
        def values(*arguments: str) -> list[float]:
            path = Path(self.folder.name) / "split.npy"
            done = run("logits", self.model, "--tokens", "1,75,108,40,50", *arguments, "-o", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            return list(struct.unpack(f"<{5 * N_VOCAB}f", path.read_bytes()[-20 * N_VOCAB :]))

        whole = values("--device", self.device)
        names = cli_model.device_names()
        for split in ("1", "4"):
            other = values("--prefill", names[-1], "--decode", self.device, "--split", split)
            self.assertLess(max(abs(a - b) for a, b in zip(whole, other)), 1e-3)

    # ---- bench, plan, version, help ----

    def test_bench_tells_rates_and_shares(self) -> None:
        result = run_json("bench", self.model, "-p", "16", "-n", "4", "-r", "2", *self.placed(), timeout=120)
        tests = {r["test"]: r for r in result["results"]}
        self.assertLessEqual({"pp16", "tg4"}, tests.keys())
        for test in tests.values():
            self.assertLessEqual({"tokens_per_s", "stddev", "device", "bandwidth_fraction", "compute_fraction"}, test.keys())
            self.assertGreater(test["tokens_per_s"], 0)
        self.assertGreater(tests["pp16"]["compute_fraction"], 0)
        self.assertLess(tests["pp16"]["compute_fraction"], 1)
        self.assertGreater(tests["pp16"]["bandwidth_fraction"], 0)
        self.assertGreater(tests["tg4"]["compute_fraction"], 0)
        share = tests["tg4"]
        self.assertLess(0, share["bandwidth_fraction_low"])
        self.assertLessEqual(share["bandwidth_fraction_low"], share["bandwidth_fraction"])
        self.assertLessEqual(share["bandwidth_fraction"], share["bandwidth_fraction_high"])
        self.assertLessEqual(share["bandwidth_fraction_high"], 1)

    def test_bench_compares_single_tokens_of_one_sequence_only(self) -> None:
        result = run_json("bench", self.model, "-p", "16", "-n", "4", "-r", "1", "-b", "2", *self.placed())
        test = result["results"][1]
        self.assertEqual((test["test"], test["bandwidth_fraction_low"]), ("tg4 b2", None))
        self.assertGreater(test["bandwidth_fraction"], 0)

    def test_bench_without_limits_tells_rates_alone(self) -> None:
        result = run_json("bench", self.model, "-p", "16", "-n", "4", "-r", "1", "--no-limits", *self.placed())
        for test in result["results"]:
            self.assertGreater(test["tokens_per_s"], 0)
            self.assertEqual({v for k, v in test.items() if "fraction" in k or "_per_s" in k[7:]} - {test["tokens_per_s"]}, {None})

    def test_bench_makes_a_shape_in_memory(self) -> None:
        result = run_json("bench", "--shape", "llama-tiny", "--format", "Q8_0", "-p", "16", "-n", "4", "-r", "1",
                          *self.placed(), timeout=120)
        self.assertEqual(result["model"], "llama-tiny Q8_0")

    def test_bench_writes_the_shape_as_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tiny.gguf")
            self.assertEqual(run_json("bench", "--shape", "llama-tiny", "--format", "Q4_K_M", "--write", path), {"written": path})
            info = run_json("info", path)
            self.assertEqual((info["name"], info["architecture"]), ("llama-tiny", "llama"))
            tests = [r["test"] for r in run_json("bench", path, "-p", "16", "-n", "4", "-r", "1", *self.placed())["results"]]
            self.assertEqual(tests, ["pp16", "tg4"])

    def test_plan_marks_the_candidate_that_it_chose(self) -> None:
        plan = run_json("plan", self.model, "--prompt-tokens", "64", "--output-tokens", "16")
        chosen = [c for c in plan["candidates"] if c["chosen"]]
        self.assertEqual([(c["prefill"], c["decode"]) for c in chosen], [(plan["prefill"], plan["decode"])])
        self.assertIn(plan["prefill"], plan["reason"])
        self.assertIn("64+16 tokens", plan["reason"])
        for candidate in plan["candidates"]:
            self.assertLessEqual({"ttft_ms", "tpot_ms", "total_ms", "transfer_ms", "memory_bytes", "goodput", "note"},
                                 candidate.keys())
        self.assertEqual(sum(line.startswith("*") for line in run("plan", self.model).stdout.splitlines()), 1)

    def test_a_corrupt_profile_is_measured_again(self) -> None:
        run_json("plan", self.model, "--devices", self.device)
        profiles = list((Path(os.environ["XDG_CACHE_HOME"]) / "consort" / "profiles").iterdir())
        self.assertTrue(profiles)
        for profile in profiles:
            profile.write_bytes(profile.read_bytes()[:100])
        run_json("plan", self.model, "--devices", self.device)
        self.assertTrue(any(p.read_bytes().endswith(b"end\n") for p in profiles))

    def test_version_tells_abi_and_commit(self) -> None:
        done = run("--version")
        self.assertRegex(done.stdout, r"^consort \d+\.\d+\.\d+\nplugin ABI \d+ to \d+\ncommit \w+\n$")

    def test_every_command_has_help(self) -> None:
        text = run("--help").stdout
        for command in ("devices", "pull", "info", "run", "tokenize", "logits", "eval", "bench", "plan"):
            self.assertRegex(text, rf"(?m)^  {command} ")
            done = run(command, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout.startswith(f"usage: consort {command} "), done.stdout)

    def test_completion_offers_commands_options_and_devices(self) -> None:
        script = Path(os.environ["CONSORT_TEST_SOURCE"]) / "cli/completion/consort.bash"

        def offered(*words: str) -> set[str]:
            code = (f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _consort; '
                    'printf "%s\\n" "${COMPREPLY[@]}"')
            done = subprocess.run(["bash", "-c", code, "bash", *words], capture_output=True, text=True, timeout=60, check=True,
                                  env={**os.environ, "PATH": f"{Path(CLI).parent}:{os.environ['PATH']}"})
            return set(done.stdout.split())

        commands = re.findall(r"(?m)^  ([a-z-]+) ", run("--help").stdout)
        self.assertLessEqual(set(commands), offered("consort", ""))
        self.assertEqual(offered("consort", "run", "m", "--pref"), {"--prefill", "--prefill-kv-dtype"})
        self.assertEqual(offered("consort", "run", "m", "--kv-dtype", "b"), {"bf16"})
        self.assertEqual(offered("consort", "run", "m", "--decode", ""), set(cli_model.device_names()))

    def test_the_man_page_and_the_completion_know_every_option(self) -> None:
        source = Path(os.environ["CONSORT_TEST_SOURCE"])
        page = (source / "docs/man/consort.1").read_text().replace("\\-", "-")
        completion = (source / "cli/completion/consort.bash").read_text()
        for command in ("devices", "pull", "info", "run", "tokenize", "logits", "eval", "bench", "plan", "worker"):
            for option in re.findall(r"--[a-z-]+", run(command, "--help").stdout):
                self.assertIn(option, completion, command)
                if command in ("devices", "pull", "run", "tokenize", "eval", "plan", "worker") and option != "--help":
                    self.assertIn(option, page, command)


if __name__ == "__main__":
    unittest.main()
