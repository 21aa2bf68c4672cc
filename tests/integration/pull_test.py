"""consort pull against a local server that cuts, changes, refuses and lies."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from program import PROGRAM, RANDOM

TOKEN = "hf_secretsecretsecret"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server holds and how it behaves; one for each test."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.listing: dict | None = None
        self.private = False
        self.cut_after: list[int] = []  # of the next answers, the bytes after which the connection ends
        self.stall_after: int | None = None
        self.statuses: list[int] = []  # of the next answers
        self.log: list[tuple[str, str, str | None, str | None]] = []  # host, path, range, authorization

    def list_files(self) -> bytes:
        siblings = [{"rfilename": name, "size": len(data), "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
                    for name, data in self.files.items()]
        return json.dumps(self.listing or {"sha": COMMIT, "siblings": siblings}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_arguments) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.hub.stall_after is not None and status in (200, 206) and len(body) > self.hub.stall_after:
            self.wfile.write(body[:self.hub.stall_after])
            self.wfile.flush()
            time.sleep(30)
        cut = self.hub.cut_after.pop(0) if self.hub.cut_after and status in (200, 206) else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.close_connection = True

    def do_GET(self) -> None:
        hub, host = self.hub, self.headers["Host"]
        path, authorization = self.path.split("?")[0], self.headers["Authorization"]
        hub.log.append((host, path, self.headers["Range"], authorization))
        if hub.private and host.startswith("127.0.0.1") and authorization != f"Bearer {TOKEN}":
            return self.answer(401)
        if path.startswith("/api/models/"):
            return self.answer(200, hub.list_files())
        if "/resolve/" in path:  # the hub names another host for the bytes
            name = path.split(f"/resolve/{COMMIT}/")[1]
            return self.answer(302, Location=f"http://localhost:{self.server.server_address[1]}/cdn/{name}?signature=s3cret")
        data = hub.files.get(path.removeprefix("/cdn/").replace("%20", " "))
        if hub.statuses:
            return self.answer(hub.statuses.pop(0))
        if data is None:
            return self.answer(404)
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers["Range"] and self.headers["If-Range"] in (None, etag):
            first = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            if first >= len(data):
                return self.answer(416, Content_Range=f"bytes */{len(data)}")
            return self.answer(206, data[first:], ETag=etag, Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
        return self.answer(200, data, ETag=etag)


class Pull(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.cache = Path(folder.name)
        self.hub = Hub()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, self.hub))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.root = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.data = RANDOM.randbytes(3_000_000)
        self.hub.files["model.gguf"] = self.data

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HF_ENDPOINT": self.root, "CONSORT_CACHE": str(self.cache), "HF_TOKEN": TOKEN, "no_proxy": "*"}

    def pull(self, *arguments: str, token: bool = True) -> subprocess.CompletedProcess:
        environment = self.environment()
        if not token:
            del environment["HF_TOKEN"]
        done = subprocess.run([PROGRAM, "pull", *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False)
        for secret in (TOKEN, "s3cret", "password"):
            self.assertNotIn(secret, done.stdout + done.stderr)
        return done

    def expect(self, done: subprocess.CompletedProcess) -> Path:
        self.assertEqual(done.returncode, 0, done.stderr)
        return Path(done.stdout.strip())

    def expect_error(self, done: subprocess.CompletedProcess, reason: str, status: int = 1) -> None:
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn(reason, done.stderr)

    def leftovers(self) -> list[str]:
        return [p.name for p in self.cache.rglob("*") if p.suffix in (".part", ".etag", ".new")]

    def test_the_only_gguf_is_fetched_once(self) -> None:
        self.hub.private = True
        path = self.expect(self.pull("hf:owner/model"))
        self.assertEqual(path.read_bytes(), self.data)
        self.assertEqual(self.leftovers(), [])
        fetched = len(self.hub.log)
        self.assertEqual(self.expect(self.pull("hf:owner/model:model.gguf")), path)
        self.assertEqual(len(self.hub.log), fetched + 1)  # the listing alone
        for host, _, _, authorization in self.hub.log:
            self.assertEqual(authorization, f"Bearer {TOKEN}" if host.startswith("127.") else None)

    def test_a_cut_connection_goes_on_where_it_ended(self) -> None:
        self.hub.cut_after = [10**9, 1_000_000, 500_000]  # the listing whole
        path = self.expect(self.pull("hf:owner/model"))
        self.assertEqual(path.read_bytes(), self.data)
        ranges = [r for _, p, r, _ in self.hub.log if p.startswith("/cdn/")]
        self.assertEqual(ranges, [None, "bytes=1000000-", "bytes=1500000-"])

    def interrupt(self, number: int) -> int:
        self.hub.stall_after = 1_000_000
        with subprocess.Popen([PROGRAM, "pull", "hf:owner/model"], env=self.environment(), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as process:
            for _ in range(400):
                parts = list(self.cache.rglob("*.part"))
                if parts and parts[0].stat().st_size == 1_000_000:
                    break
                time.sleep(0.05)
            process.send_signal(number)
            process.wait(30)
        self.hub.stall_after = None
        return process.returncode

    def test_another_run_goes_on_after_an_interrupt_and_after_a_kill(self) -> None:
        self.assertEqual(self.interrupt(signal.SIGINT), 130)
        self.assertEqual(len(self.leftovers()), 2)
        self.assertEqual(self.interrupt(signal.SIGKILL), -9)
        path = self.expect(self.pull("hf:owner/model"))
        self.assertEqual(path.read_bytes(), self.data)
        self.assertIn("bytes=", self.hub.log[-1][2])
        self.assertEqual(self.leftovers(), [])

    def test_a_file_that_changed_is_fetched_anew(self) -> None:
        self.interrupt(signal.SIGKILL)
        self.hub.files["model.gguf"] = RANDOM.randbytes(2_000_000)
        path = self.expect(self.pull("hf:owner/model"))
        self.assertEqual(path.read_bytes(), self.hub.files["model.gguf"])

    def test_a_wrong_checksum_keeps_nothing(self) -> None:
        self.hub.listing = {"sha": COMMIT, "siblings": [{"rfilename": "model.gguf", "lfs": {"size": 3_000_000, "sha256": "0" * 64}}]}
        self.expect_error(self.pull("hf:owner/model"), "its SHA-256 is")
        self.assertEqual([p.name for p in self.cache.rglob("*") if p.is_file()], ["main.json"])

    def test_a_wrong_size_keeps_nothing(self) -> None:
        self.hub.listing = {"sha": COMMIT, "siblings": [{"rfilename": "model.gguf", "size": 2_999_999}]}
        self.expect_error(self.pull("hf:owner/model"), "2999999 were announced")
        self.assertEqual(self.leftovers(), [])

    def test_the_cache_answers_offline(self) -> None:
        self.expect_error(self.pull("hf:owner/model", "--offline"), "is not in the cache")
        path = self.expect(self.pull("hf:owner/model"))
        asked = len(self.hub.log)
        self.assertEqual(self.expect(self.pull("hf:owner/model", "--offline")), path)
        self.assertEqual(len(self.hub.log), asked)

    def test_refusals_are_one_line(self) -> None:
        self.expect_error(self.pull("hf:owner/model:other.gguf"), "has no file of this name")
        self.expect_error(self.pull(f"{self.root}/none.gguf"), "HTTP 404")
        self.hub.private = True
        self.expect_error(self.pull("hf:owner/model", token=False), "set HF_TOKEN")
        for bad in ("owner/model", "hf:owner", "hf:owner/../x", "hf:owner/model:../x", "hf:owner/model:/etc/x", "hf:/x", "ftp://a/b"):
            self.expect_error(self.pull(bad), "neither hf:", 2)

    def test_a_server_that_stumbles_is_asked_again(self) -> None:
        self.hub.statuses = [503, 500]
        self.assertEqual(self.expect(self.pull("hf:owner/model")).read_bytes(), self.data)

    def test_listings_that_lie_are_refused(self) -> None:
        for sibling, reason in [({"rfilename": "a/../../up.gguf"}, "not a plain path"), ({"rfilename": "a//b.gguf"}, "not a plain path"),
                                ({"rfilename": "/etc/passwd.gguf"}, "not a plain path"), ({"size": 1}, "rfilename is missing"),
                                ({"rfilename": "a.gguf", "size": -1}, "size is no size"),
                                ({"rfilename": "a.gguf", "lfs": {"sha256": "x"}}, "no SHA-256"),
                                ({"rfilename": "model.gguf", "size": 2**62}, "the disk has")]:
            self.hub.listing = {"sha": COMMIT, "siblings": [sibling]}
            self.expect_error(self.pull("hf:owner/model"), reason)
        self.hub.listing = {"sha": "main", "siblings": []}
        self.expect_error(self.pull("hf:owner/model"), "sha is no commit")
        self.hub.listing = {"sha": COMMIT, "siblings": []}
        self.expect_error(self.pull("hf:owner/model"), "neither a GGUF nor")

    def test_parts_and_folders_come_whole(self) -> None:
        self.hub.files["other.gguf"] = b"o"
        self.expect_error(self.pull("hf:owner/model"), "model.gguf, other.gguf")
        self.hub.files = {f"big-0000{i}-of-00003.gguf": b"part" * i for i in (1, 2, 3)}
        path = self.expect(self.pull("hf:owner/split"))
        self.assertEqual(path.name, "big-00001-of-00003.gguf")
        self.assertEqual(len(list(path.parent.iterdir())), 3)
        self.hub.files = {name: name.encode() for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md",
                                                           "onnx/model.onnx", ".gitattributes")}
        path = self.expect(self.pull("hf:owner/folder"))
        self.assertEqual(sorted(p.name for p in path.iterdir()), ["config.json", "model.safetensors", "tokenizer.json"])

    def test_a_url_is_checked_against_a_given_hash(self) -> None:
        url = self.root.replace("//", "//user:password@") + "/cdn/model.gguf?key=s3cret"
        self.expect_error(self.pull(url, "--sha256", "1" * 64), "its SHA-256 is")
        path = self.expect(self.pull(url, "--sha256", hashlib.sha256(self.data).hexdigest()))
        self.assertEqual(path.name, "model.gguf")
        self.assertFalse(any(TOKEN in (a or "") for _, _, _, a in self.hub.log))
        self.expect_error(self.pull(url, "--sha256", "abc"), "64 hexadecimal", 2)


if __name__ == "__main__":
    unittest.main()
