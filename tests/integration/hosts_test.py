"""Stages on different hosts: three of them on this machine, a cable each, the client on one and a worker on each of two.

The same placements and tokens as in one process, KV verified, a flipped bit on the wire refused. And what goes wrong between
hosts: a worker that is killed, one that is stopped and a cable that is pulled, each while the prompt is computed, while the KV
cache is moved and while tokens are made. Then the client has one error within three seconds, whoever is left keeps nothing
of the request, and the next request works.

    hosts_test.py           what runs in every test run
    hosts_test.py --all     and every failure in every stage, and a cable slower than the silence allows a piece
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path

from hosts import Daemon, Hosts, why_not
from program import DEMO_F32, PROGRAM, consort, consort_json, devices

ALL = "--all" in sys.argv
BUILD = Path(os.environ.get("CONSORT_TEST_BUILD", "build"))
PORT = 4100
SECONDS_TO_TELL = 3.0
SECONDS_TO_BEGIN = 20.0
# What shows that KV is on its way: more than greetings and a prompt, less than a piece.
TRANSFER_BYTES = 200_000
PROMPT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak."
LONG_PROMPT = "Speak, speak. " * 330
LONG_CONTEXT = 2048
# 4 Mbit/s: a piece of the long prompt's KV takes half a second, all of it eight.
NARROW = "4mbit"
# A piece takes 2.6 seconds, a part of it one.
SLOW = "512kbit"
# What waits there is heard of only when it has come through.
SLOW_BUFFER = "32k"
SILENCE_MS = 2000
ENVIRONMENT = {
    "CONSORT_SECRET": "the secret of the test",
    "CONSORT_PLUGIN_PATH": str(BUILD / "lib/consort/plugins-development"),
    "CONSORT_FAULT_TARGET": str(BUILD / "lib/consort/plugins/consort-cpu.so"),
    # All of a request's KV would fit into the usual 4 MiB: then it arrives though its sender was stopped.
    "UCX_TCP_SNDBUF": os.environ.get("UCX_TCP_SNDBUF", "128k"),
}
STAGES = ("prefill", "transfer", "decode")
FAILURES = ("kill", "stop", "cut")


class HostsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        os.environ.update(ENVIRONMENT)
        cls.hosts = cls.enterClassContext(Hosts("client", "prefill", "decode"))
        cls.workers: dict[str, Daemon] = {}
        for name in ("prefill", "decode"):
            cls.start_worker(name)

    @classmethod
    def tearDownClass(cls) -> None:
        for worker in cls.workers.values():
            worker.kill()

    def setUp(self) -> None:
        """Whatever a test before this one has left behind."""
        for name, worker in self.workers.items():
            self.hosts.mend(name)
            self.hosts.narrow(name, None)
            if worker.process.poll() is None:
                worker.send(signal.SIGCONT)
            else:
                self.restart_worker(name)

    @classmethod
    def start_worker(cls, name: str, env: dict[str, str] | None = None) -> None:
        host = cls.hosts[name]
        cls.workers[name] = Daemon(PROGRAM, "worker", "--listen", f"{host.address}:{PORT}", host=host, env=env)
        cls.workers[name].wait_for("listening on ")

    def restart_worker(self, name: str, env: dict[str, str] | None = None) -> None:
        self.workers[name].kill()
        self.start_worker(name, env)

    def place(self, prefill: str, decode: str) -> list[str]:
        return ["--prefill", f"{self.hosts['prefill'].address}:{PORT}/{prefill}",
                "--decode", f"{self.hosts['decode'].address}:{PORT}/{decode}"]

    def on_client(self, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.hosts["client"].command(PROGRAM, *arguments), capture_output=True, text=True,
                              errors="replace", check=False, timeout=timeout, stdin=subprocess.DEVNULL)

    def generate(self, prefill: str = "cpu:0", decode: str = "cpu:0", n: int = 16) -> dict:
        done = self.on_client("run", DEMO_F32, "-p", PROMPT, "-n", n, "--temp", 0, "--kv-dtype", "f32", "--json",
                              *self.place(prefill, decode))
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def offered(self, name: str) -> list[dict]:
        """The devices of a worker, as it tells."""
        done = self.on_client("devices", "--worker", f"{self.hosts[name].address}:{PORT}", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return [d for p in json.loads(done.stdout)["plugins"] for d in p["devices"]]

    def kv_blocks(self, name: str) -> int:
        return sum(d["kv_blocks_used"] for d in self.offered(name))

    def sessions(self, name: str) -> int:
        """Sessions that a worker serves, and KV blocks that they use: both are 0 when nobody is there."""
        return sum(d["sessions"] for d in self.offered(name)) + self.kv_blocks(name)

    def assert_nothing_left(self, name: str) -> None:
        deadline = time.monotonic() + 3
        while self.sessions(name) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.sessions(name), 0, f"{name} keeps what a request had")

    # ---- what works ----

    def test_every_placement_gives_the_tokens_of_one_process(self) -> None:
        expected = consort_json("run", DEMO_F32, "-p", PROMPT, "-n", 16, "--temp", 0, "--kv-dtype", "f32", "--prefill",
                                "cpu:0", "--decode", "cpu:0")["tokens"]
        for prefill, decode in itertools.product([d for d in devices() if not d.startswith("fault")], repeat=2):
            with self.subTest(prefill=prefill, decode=decode):
                result = self.generate(prefill, decode)
                self.assertEqual(result["tokens"], expected)
                self.assertTrue(result["kv_transfer"]["verified"])
                self.assertGreater(result["kv_transfer"]["bytes"], 0)
        self.assert_nothing_left("prefill")
        self.assert_nothing_left("decode")

    def test_one_stage_may_stay_with_the_client(self) -> None:
        expected = self.generate()["tokens"]
        for stage in ("--prefill", "--decode"):
            other = "--decode" if stage == "--prefill" else "--prefill"
            done = self.on_client("run", DEMO_F32, "-p", PROMPT, "-n", 16, "--temp", 0, "--kv-dtype", "f32", "--json", stage,
                                  "cpu:0", other, f"{self.hosts['decode'].address}:{PORT}/cpu:0")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["tokens"], expected)

    def test_without_the_secret_nobody_is_served(self) -> None:
        address = f"{self.hosts['decode'].address}:{PORT}"
        for secret in ("wrong", None):
            env = {k: v for k, v in os.environ.items() if k != "CONSORT_SECRET"}
            env.update({"CONSORT_SECRET": secret} if secret else {})
            done = subprocess.run(self.hosts["client"].command(PROGRAM, "devices", "--worker", address), capture_output=True,
                                  text=True, check=False, timeout=20, env=env)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("secret", done.stderr)
            self.assertEqual(done.stderr.count("consort: error: "), 1, done.stderr)

    def test_others_reach_no_worker_without_a_secret(self) -> None:
        host = self.hosts["client"]
        env = {k: v for k, v in os.environ.items() if k != "CONSORT_SECRET"}
        done = subprocess.run(host.command(PROGRAM, "worker", "--listen", f"{host.address}:0"), capture_output=True, text=True,
                              check=False, timeout=20, env=env)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("a secret is needed", done.stderr)

    def test_a_flipped_bit_on_the_wire_is_refused(self) -> None:
        preload = str(BUILD / "tests" / "libflip_send.so")
        if "libasan" in subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=False).stdout:
            self.skipTest("a sanitizer has to be loaded first")
        flipped = 0
        for number in (1, 2, 3):
            self.restart_worker("prefill", {"LD_PRELOAD": preload, "CONSORT_TEST_FLIP": str(number)})
            done = self.on_client("run", DEMO_F32, "-p", PROMPT, "-n", 4, "--temp", 0, "--kv-dtype", "f32",
                                  *self.place("cpu:0", "cpu:0"))
            if done.returncode == 0:
                continue
            flipped += 1
            errors = [line for line in done.stderr.splitlines() if line.startswith("consort: error: ")]
            self.assertEqual((done.returncode, len(errors)), (1, 1), done.stderr)
            self.assert_nothing_left("decode")
        self.assertGreaterEqual(flipped, 2)
        self.restart_worker("prefill")
        self.generate()

    # ---- what fails ----

    def begin(self, stage: str) -> subprocess.Popen[str]:
        """A request that is in the stage when this returns."""
        slow_prefill = "fault:0?fault=slow:2500000" if stage == "prefill" else "cpu:0"
        slow_decode = "fault:0?fault=slow:150000" if stage == "decode" else "cpu:0"
        if stage == "transfer":
            self.hosts.narrow("decode", NARROW)
        before = self.hosts.sent_to("decode")
        prompt = LONG_PROMPT if stage == "transfer" else PROMPT
        client = subprocess.Popen(
            self.hosts["client"].command(PROGRAM, "run", DEMO_F32, "-p", prompt, "-n", "100", "--temp", "0", "--ctx",
                                         str(LONG_CONTEXT), "--kv-dtype", "f32", *self.place(slow_prefill, slow_decode)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        if stage == "decode":
            assert client.stdout
            client.stdout.read(1)
        elif stage == "transfer":
            self.wait_until(lambda: self.hosts.sent_to("decode") > before + TRANSFER_BYTES, client)
        else:
            self.wait_until(lambda: self.kv_blocks("prefill") > 0, client)
        if client.poll() is not None:
            self.fail(f"{stage} was over too soon: {client.communicate()}")
        return client

    def wait_until(self, holds: Callable[[], bool], client: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + SECONDS_TO_BEGIN
        while not holds() and client.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def break_it(self, failure: str, who: str) -> None:
        if failure == "cut":
            self.hosts.cut(who)
        else:
            self.workers[who].send(signal.SIGKILL if failure == "kill" else signal.SIGSTOP)

    def mend_it(self, failure: str, who: str) -> None:
        self.hosts.narrow("decode", None)
        if failure == "cut":
            self.hosts.mend(who)
        elif failure == "stop":
            self.workers[who].send(signal.SIGCONT)
        else:
            self.restart_worker(who)

    def check_failure(self, stage: str, failure: str, who: str) -> None:
        survivor = "decode" if who == "prefill" else "prefill"
        before = self.workers[survivor].n_descriptors()
        client = self.begin(stage)
        began = time.monotonic()
        self.break_it(failure, who)
        try:
            _, errors = client.communicate(timeout=20)
        finally:
            client.kill()
        took = time.monotonic() - began
        print(f"{stage}, {failure} {who}: told after {took:.2f} s: {errors.strip()}")
        self.mend_it(failure, who)
        lines = [line for line in errors.splitlines() if line.startswith("consort: error: ")]
        self.assertEqual((client.returncode, len(lines)), (1, 1), errors)
        self.assertLess(took, SECONDS_TO_TELL)
        self.assert_nothing_left(survivor)
        self.assertEqual(len(self.generate(n=4)["tokens"]), 4)
        self.assert_nothing_left(survivor)
        self.assert_nothing_left(who)
        self.assertLessEqual(self.workers[survivor].n_descriptors(), before + 2)


def add_slow_cable() -> None:
    """A cable on which one piece takes longer than a worker may be silent."""

    def test(self: HostsTest) -> None:
        arguments = ("run", DEMO_F32, "-p", LONG_PROMPT[: len(LONG_PROMPT) // 3], "-n", 4, "--temp", 0, "--ctx", LONG_CONTEXT,
                     "--kv-dtype", "f32", "--json", *self.place("cpu:0", "cpu:0"))
        results = []
        for rate in (None, SLOW):
            self.restart_worker("prefill", {"UCX_TCP_SNDBUF": SLOW_BUFFER})
            self.hosts.narrow("decode", rate)
            done = self.on_client(*arguments, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            results.append(json.loads(done.stdout))
        self.restart_worker("prefill")
        transfer = results[1]["kv_transfer"]
        print(f"{transfer['pieces']} pieces in {transfer['ms'] / 1e3:.1f} s")
        self.assertGreater(transfer["ms"] / transfer["pieces"], SILENCE_MS)
        self.assertTrue(transfer["verified"])
        self.assertEqual(results[0]["tokens"], results[1]["tokens"])

    setattr(HostsTest, "test_a_piece_that_takes_longer_than_the_silence_arrives", test)


def add_failures() -> None:
    """One test for each stage, failure and worker that takes part in the stage."""
    for stage, failure in itertools.product(STAGES, FAILURES):
        parts = {"prefill": ["prefill"], "transfer": ["prefill", "decode"], "decode": ["decode"]}[stage]
        for who in parts:
            always = failure == "kill" and who != "prefill" or (stage, failure) == ("transfer", "cut") and who == "decode"
            if not ALL and not always:
                continue

            def test(self: HostsTest, stage: str = stage, failure: str = failure, who: str = who) -> None:
                self.check_failure(stage, failure, who)

            setattr(HostsTest, f"test_{failure}_of_{who}_during_{stage}_is_one_error", test)


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    add_failures()
    if ALL:
        add_slow_cable()
    unittest.main(argv=[a for a in sys.argv if a != "--all"], verbosity=2)
