"""Strangers at a worker's ports: noise, other protocols, cut, changed and replayed greetings, crowds that say nothing.

The worker goes on, closes every such connection, grows by nothing, and serves whoever knows the secret. Bounded in number
and time; CONSORT_TEST_ROUNDS makes it longer.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import selectors
import socket
import struct
import sys
import threading
import time
import unittest
from pathlib import Path

from hosts import Daemon
from program import PROGRAM, SEED, consort, scratch

ROUNDS = int(os.environ.get("CONSORT_TEST_ROUNDS", "3"))
STRANGERS = 60  # a round
DOOR_SECONDS = 5.0  # how long a worker bears one who says nothing
OPEN_SECONDS = 4.5  # how long after a friend has come the library's own ports may be open
GROWTH_BYTES = 8 << 20
MAGIC = b"CONSORT\x1a"
LIBRARY_MAGIC = 0xCAFEBABE12345678  # of connections in UCX
SECRET = {"CONSORT_SECRET": "the secret of the test"}


def split(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


def listening_ports(pid: int) -> list[int]:
    """TCP ports that the process listens on."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except OSError:
            continue
        if match:
            inodes.add(match[1])
    ports = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.append(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


class Recorder:
    """Stands between a client and a worker and remembers what the client said."""

    def __init__(self, address: str) -> None:
        self.target = split(address)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.said = b""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        client, _ = self.server.accept()
        worker = socket.create_connection(self.target)
        with client, worker, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, worker)
            selector.register(worker, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is client:
                        self.said += data
                    key.data.sendall(data)

    def close(self) -> None:
        self.thread.join(10)
        self.server.close()


def words(rng: random.Random, greeting: bytes) -> bytes:
    """What one stranger says."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.choice([1, 7, 48, 49, 500, 20000]))
    if kind == 1:
        return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    if kind == 2:
        return greeting[: rng.randrange(len(greeting))]
    if kind == 3:
        return greeting  # the whole of it, once more
    if kind == 4:
        changed = bytearray(greeting)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 5:
        return MAGIC + rng.randbytes(72)
    if kind == 6:
        return greeting * 3
    return rng.randbytes(4) + b"\xff" * rng.randrange(1, 4000)


def speak(port: int, text: bytes) -> bool:
    """Says it and reads until the other side closes; False when that does not come in time."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.settimeout(2 * DOOR_SECONDS)
        try:
            s.sendall(text)
            s.shutdown(socket.SHUT_WR)
            while s.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass  # closed in the middle of it
    return True


class GarbageTest(unittest.TestCase):
    def setUp(self) -> None:
        print(f"CONSORT_TEST_SEED={SEED}")
        self.rng = random.Random(SEED)
        self.worker = Daemon(PROGRAM, "worker", "--listen", "127.0.0.1:0", env=SECRET)
        self.addCleanup(self.worker.kill)
        self.address = self.worker.wait_for("listening on ")

    def serve_a_friend(self, address: str = "") -> None:
        done = consort("devices", "--worker", address or self.address, env=SECRET, timeout=20)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("cpu:0", done.stdout)

    def record_greeting(self) -> bytes:
        recorder = Recorder(self.address)
        self.serve_a_friend(recorder.address)
        recorder.close()
        self.assertTrue(recorder.said.startswith(MAGIC))
        return recorder.said

    def test_strangers_are_sent_away(self) -> None:
        greeting = self.record_greeting()
        port = split(self.address)[1]
        sizes = []
        for _ in range(ROUNDS + 1):
            for _ in range(STRANGERS):
                text = words(self.rng, greeting)
                closed = speak(port, text)
                self.assertIsNone(self.worker.process.poll(), f"after {text[:80]!r}: {self.worker.lines}")
                self.assertTrue(closed, f"still open after {text[:80]!r}")
            self.serve_a_friend()
            sizes.append(self.worker.rss_bytes())
        self.assertLess(sizes[-1] - sizes[0], GROWTH_BYTES, sizes)
        print(f"{(ROUNDS + 1) * STRANGERS} strangers; {sizes[0] >> 10} KiB, then {sizes[-1] >> 10} KiB")
        self.assertEqual(self.worker.stop(), 0)

    def assert_nobody_answers(self, ports: list[int]) -> None:
        for port, _ in itertools.product(ports, range(4)):
            packet = struct.pack("<BI", self.rng.randrange(32), 2**31) + self.rng.randbytes(200)
            with self.assertRaises(TimeoutError), socket.create_connection(("127.0.0.1", port), timeout=0.1) as s:
                s.sendall(struct.pack("<Q", LIBRARY_MAGIC) + packet)
            self.assertIsNone(self.worker.process.poll(), self.worker.lines)

    def test_the_library_that_moves_messages_hears_no_stranger(self) -> None:
        """UCX trusts who comes: some bytes of its own kind would end the process."""
        others = [port for port in listening_ports(self.worker.pid) if port != split(self.address)[1]]
        self.assertTrue(others)
        self.assert_nobody_answers(others)
        self.serve_a_friend()
        time.sleep(OPEN_SECONDS)
        self.assert_nobody_answers(others)
        self.serve_a_friend()

    def test_a_crowd_that_says_nothing_is_gone_after_a_while(self) -> None:
        crowd = [socket.create_connection(split(self.address), timeout=5) for _ in range(100)]
        deadline = time.monotonic() + 2 * DOOR_SECONDS
        for one in crowd:
            one.settimeout(max(0.1, deadline - time.monotonic()))
            self.assertEqual(one.recv(1), b"")
            one.close()
        self.serve_a_friend()
        self.assertLess(self.worker.n_descriptors(), 64)

    def test_nothing_is_said_to_a_stranger_but_a_hello_and_a_verdict(self) -> None:
        with socket.create_connection(split(self.address), timeout=5) as s:
            s.settimeout(2 * DOOR_SECONDS)
            s.sendall(self.record_greeting())
            heard = b""
            try:
                while data := s.recv(4096):
                    heard += data
            except ConnectionError:
                pass
        self.assertEqual(len(heard), 48 + 36)
        self.assertNotEqual(heard[48:52], b"\0\0\0\0")
        self.assertEqual(heard[52:], b"\0" * 32)
        self.assertNotIn(b"secret", heard)

    def test_the_secret_may_be_in_a_file(self) -> None:
        path = scratch() / "secret"
        path.write_text(SECRET["CONSORT_SECRET"] + "\n")
        env = {k: v for k, v in os.environ.items() if k != "CONSORT_SECRET"}
        self.assertNotIn("CONSORT_SECRET", env)
        done = consort("devices", "--worker", self.address, "--secret-file", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        path.write_text("")
        self.assertIn("is empty", consort("devices", "--worker", self.address, "--secret-file", path).stderr)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
