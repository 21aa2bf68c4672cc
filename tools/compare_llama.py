"""Consort and llama.cpp on the same file, in turn: the ratio of each pair of runs, and medians.

    python3 -m venv peer && peer/bin/pip install llama-cpp-python      # builds llama.cpp for this machine
    consort bench --shape llama-1b --format Q8_0 --write 1b-q8_0.gguf
    python3 tools/compare_llama.py 1b-q8_0.gguf --python peer/bin/python --threads 2

A machine's rate drifts within a minute, so a pair of runs that follow each other says more than two averages. Both warm up
outside the clock, both use the given threads and their own defaults beyond that; loading is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NO_PEER = 3  # the status of tools/llama_peer.py


class Failure(Exception):
    """What the user reads in one line."""


@dataclass(frozen=True)
class Pair:
    """Tokens a second of one turn."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


class Peer:
    """A process that speaks the lines of tools/llama_peer.py."""

    def __init__(self, command: list[str]) -> None:
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                            text=True)
        except OSError as error:
            raise Failure(f"{command[0]}: {error.strerror}") from error
        first = self.answer()
        if not first.startswith("ready "):
            raise Failure(f"{shlex.join(command)}: answered {first!r}, not \"ready\"")
        self.name = first.removeprefix("ready ")

    def answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line.startswith("failed "):
            raise Failure(line.removeprefix("failed ").strip())
        if line:
            return line.strip()
        status = self.process.wait()
        if status == NO_PEER:
            raise Failure("llama.cpp is absent: that Python has no llama-cpp-python (install it there, or name another with --python)")
        raise Failure(f"llama.cpp ended with status {status}")

    def rate(self, test: str, n: int) -> float:
        assert self.process.stdin
        self.process.stdin.write(f"{test} {n}\n")
        self.process.stdin.flush()
        return n / float(self.answer())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def our_rates(options: argparse.Namespace, file: str) -> dict[str, float]:
    command = [options.consort, "bench", file, "-p", str(options.n_prompt), "-n", str(options.n_output), "-r", "1", "--no-limits",
               "--prefill", options.device, "--decode", options.device, "--threads", str(options.threads), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{shlex.join(command)} failed")
    return {r["test"]: r["tokens_per_s"] for r in json.loads(done.stdout)["results"]}


def compare(options: argparse.Namespace, file: str) -> tuple[str, dict[str, list[Pair]]]:
    """The peer's name and the pairs of each test."""
    tests = {f"pp{options.n_prompt}": ("pp", options.n_prompt), f"tg{options.n_output}": ("tg", options.n_output)}
    peer = Peer([*options.peer, file, "--threads", str(options.threads), "--context", str(options.n_prompt + options.n_output)])
    pairs: dict[str, list[Pair]] = {name: [] for name in tests}
    for test, n in tests.values():
        peer.rate(test, n)  # warms up
    for _ in range(options.pairs):
        ours = our_rates(options, file)
        for name, (test, n) in tests.items():
            pairs[name].append(Pair(ours[name], peer.rate(test, n)))
    peer.close()
    return peer.name, pairs


def medians(pairs: list[Pair]) -> dict[str, float]:
    return {"ours": statistics.median(p.ours for p in pairs), "theirs": statistics.median(p.theirs for p in pairs),
            "ratio": statistics.median(p.ratio for p in pairs)}


def report(file: str, peer: str, pairs: dict[str, list[Pair]]) -> str:
    lines = [f"{file}: Consort against {peer}, tokens/s"]
    for name, each in pairs.items():
        lines += [f"  {name:8} {p.ours:9.2f} {p.theirs:9.2f}   ratio {p.ratio:5.2f}" for p in each]
        m = medians(each)
        lines.append(f"  {name:8} {m['ours']:9.2f} {m['theirs']:9.2f}   ratio {m['ratio']:5.2f}   medians of {len(each)} pairs")
    return "\n".join(lines)


def as_json(file: str, peer: str, pairs: dict[str, list[Pair]]) -> dict[str, Any]:
    return {"file": file, "peer": peer,
            "tests": {name: {"pairs": [[p.ours, p.theirs, p.ratio] for p in each], "medians": medians(each)}
                      for name, each in pairs.items()}}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="GGUF files")
    parser.add_argument("--consort", default=os.environ.get("CONSORT_CLI", "consort"), help="the program (consort)")
    parser.add_argument("--python", default=sys.executable, help="a Python that has llama.cpp (this one)")
    parser.add_argument("--peer", type=shlex.split, metavar="COMMAND", help="instead: what speaks the lines of llama_peer.py")
    parser.add_argument("--device", default="cpu:0", help="Consort's device (cpu:0)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="of both (all allowed)")
    parser.add_argument("-p", "--n-prompt", type=positive, default=512, metavar="N", help="prompt tokens (512)")
    parser.add_argument("-n", "--n-output", type=positive, default=32, metavar="N", help="generated tokens (32)")
    parser.add_argument("--pairs", type=positive, default=5, metavar="N", help="pairs of runs (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    options = parser.parse_args(arguments)
    if not options.peer:
        options.peer = [options.python, str(HERE / "llama_peer.py")]
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    results = []
    try:
        if not shutil.which(options.consort):
            raise Failure(f"{options.consort}: no such program (--consort PATH)")
        for file in options.files:
            peer, pairs = compare(options, file)
            if options.json:
                results.append(as_json(file, peer, pairs))
            else:
                print(report(file, peer, pairs), flush=True)
    except Failure as failure:
        print(f"compare_llama: error: {failure}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
