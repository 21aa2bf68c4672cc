"""Workers in other processes, as their users meet them: the program and its one error line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest
from pathlib import Path

from program import DEMO_F32, DEMO_Q8_0, PROGRAM, consort, consort_json, scratch, stories

STORY = ", there was a little girl named Lily. She loved to play outside in the park."
PROMPT = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
WITHIN_S = 3.0


class Worker:
    """A `consort worker` on a free loopback port, ended with the block."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen([PROGRAM, "worker", "--listen", "127.0.0.1:0", *map(str, arguments)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
        line = self.process.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:"), line + self.process.stderr.read()
        self.address = line.removeprefix("listening on ").strip()
        self.device = self.address + "/cpu:0"

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.status = self.process.wait(30)
        self.process.stdout.close()
        self.process.stderr.close()

    def socket(self) -> socket.socket:
        host, port = self.address.split(":")
        return socket.create_connection((host, int(port)), timeout=10)


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]


class WorkersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        if not Path(os.environ["CONSORT_TEST_BUILD"], "lib/consort/libconsort-ucx.so").exists():
            raise unittest.SkipTest("this build has no network module")

    def run_on(self, model: Path, prompt: str, n: int, prefill: str, decode: str, kv_dtype: str = "f32") -> dict:
        result = consort_json("run", model, "-p", prompt, "-n", n, "--temp", 0, "--kv-dtype", kv_dtype, "--prefill", prefill,
                              "--decode", decode)
        self.assertEqual((result["prefill"]["device"], result["decode"]["device"]), (prefill, decode))
        self.assertEqual(result["kv_transfer"]["bytes"] > 0, prefill != decode)
        self.assertEqual(result["kv_transfer"]["verified"], prefill != decode)
        return result

    def refused(self, word: str, *arguments: object, env: dict[str, str] | None = None) -> None:
        done = consort(*arguments, env=env)
        self.assertEqual(done.returncode, 1, done.stderr)
        lines = error_lines(done)
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn(word, lines[0])

    def test_every_placement_gives_the_tokens_of_one_process(self) -> None:
        model, prompt = (stories(), "Once upon a time") if stories() else (DEMO_F32, PROMPT)
        expected = self.run_on(model, prompt, 32, "cpu:0", "cpu:0")
        if stories():
            self.assertTrue(expected["text"].startswith(STORY))
        with Worker() as a, Worker() as b:
            for prefill, decode in ((a.device, a.device), (a.device, "cpu:0"), ("cpu:0", a.device), (a.device, b.device)):
                with self.subTest(prefill=prefill, decode=decode):
                    self.assertEqual(self.run_on(model, prompt, 32, prefill, decode)["tokens"], expected["tokens"])
        self.assertEqual((a.status, b.status), (0, 0))

    def test_int8_caches_cross_processes_as_they_are(self) -> None:
        expected = self.run_on(DEMO_F32, PROMPT, 16, "cpu:0", "cpu:0", "int8")
        with Worker() as a:
            for prefill, decode in ((a.device, "cpu:0"), ("cpu:0", a.device)):
                result = self.run_on(DEMO_F32, PROMPT, 16, prefill, decode, "int8")
                self.assertEqual(result["tokens"], expected["tokens"])
                self.assertEqual(result["kv_transfer"]["bytes"], (result["prompt_tokens"] - 1) * 5 * 2 * 2 * (32 + 4))

    def test_a_worker_offers_what_it_was_told_to(self) -> None:
        with Worker("--device", "cpu:0") as worker:
            plugins = consort_json("devices", "--worker", worker.address)["plugins"]
            self.assertEqual([d["name"] for p in plugins for d in p["devices"]], ["cpu:0"])
            self.refused("not offered", "run", DEMO_Q8_0, "-p", "x", "-n", 1, "--prefill", worker.address + "/opencl:0",
                         "--decode", "cpu:0")
        refused = consort("worker", "--listen", "127.0.0.1:0", "--device", "nosuch:0")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("nosuch", error_lines(refused)[0])

    def test_another_model_is_refused(self) -> None:
        with Worker("--model", DEMO_F32) as worker:
            self.refused("fingerprint", "run", DEMO_Q8_0, "-p", "x", "-n", 1, "--prefill", worker.device, "--decode", "cpu:0")
            self.run_on(DEMO_F32, PROMPT, 4, worker.device, worker.device)

    def test_the_secret_is_asked_for(self) -> None:
        secret, other = scratch() / "secret", scratch() / "other"
        secret.write_text("open sesame\n")
        other.write_text("open barley\n")
        self.refused("secret is needed", "worker", "--listen", "0.0.0.0:0")
        arguments = ("run", DEMO_F32, "-p", "x", "-n", 1, "--prefill")
        with Worker("--secret-file", secret) as worker:
            self.refused("secret is missing", *arguments, worker.device, "--decode", "cpu:0")
            self.refused("secret is wrong", *arguments, worker.device, "--decode", "cpu:0", "--secret-file", other)
            right = consort(*arguments, worker.device, "--decode", worker.device, env={"CONSORT_SECRET": "open sesame"})
            self.assertEqual(right.returncode, 0, right.stderr)
            devices = consort("devices", "--worker", worker.address, "--secret-file", secret)
            self.assertIn("cpu:0", devices.stdout)

    def test_strangers_are_sent_away(self) -> None:
        hello = b"CONSORT\x1a" + struct.pack("<II", 99 << 16, 0) + bytes(32)
        with Worker() as worker:
            for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(48), bytes(100), hello, hello[:47] + b"x" + bytes(500)):
                answer = b""
                with worker.socket() as stranger, contextlib.suppress(ConnectionError):
                    stranger.sendall(said)
                    while part := stranger.recv(4096):
                        answer += part
                self.assertLessEqual(len(answer), 48 + 36)
            self.run_on(DEMO_F32, PROMPT, 2, worker.device, worker.device)

    def test_a_worker_of_another_version_is_told_in_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def answer() -> None:
                with listener.accept()[0] as connection:
                    connection.recv(48)
                    connection.sendall(b"CONSORT\x1a" + struct.pack("<II", 99 << 16, 0) + bytes(32))
                    connection.recv(48)
            thread = threading.Thread(target=answer)
            thread.start()
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            self.refused("version 99.0", "devices", "--worker", address)
            thread.join()

    def test_a_stopped_worker_is_one_error_within_three_seconds(self) -> None:
        with Worker() as worker:
            run = subprocess.Popen([PROGRAM, "run", str(DEMO_F32), "-p", PROMPT, "-n", "100000", "--ctx", "60000", "--temp", "0",
                                    "--prefill", worker.device, "--decode", worker.device], text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
            self.assertTrue(run.stdout.read(20))
            worker.process.send_signal(signal.SIGSTOP)
            begin = time.monotonic()
            _, stderr = run.communicate(timeout=30)
            took = time.monotonic() - begin
            self.assertEqual(run.returncode, 1)
            lines = [line for line in stderr.splitlines() if line.startswith("consort: error: ")]
            self.assertEqual(len(lines), 1, stderr)
            self.assertIn("said nothing for", lines[0])
            self.assertLessEqual(took, WITHIN_S)
            worker.process.send_signal(signal.SIGCONT)
            self.run_on(DEMO_F32, PROMPT, 4, worker.device, worker.device)


if __name__ == "__main__":
    unittest.main(verbosity=2)
