"""Applies each mutant to a copy of the tree, builds, and expects a test to turn red.

    python3 tests/mutants/run.py [--tree DIR] [--commit REV] [--lock FILE] [WORD ...]
    python3 tests/mutants/run.py --check
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
HEADER = re.compile(r"\ABreaks: (?P<what>.+)\nTests: (?P<tests>.+)\n(?P<unbuilt>Builds: nothing\n)?")
CHANGED = re.compile(r"^\+\+\+ b/(?P<file>\S+)", re.MULTILINE)
BACKEND = re.compile(r"backends/[^/]+/")
CAUGHT, SKIPPED = "caught", "not tried: its tests are skipped here"
TURN_SECONDS = 90


@dataclass(frozen=True)
class Mutant:
    path: Path
    tests: tuple[str, ...]
    files: tuple[str, ...]
    builds: bool  # False: what the patch changes is read as text by its tests

    @property
    def name(self) -> str:
        return self.path.stem


def sh(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)


def read_mutant(path: Path) -> Mutant:
    text = path.read_text()
    header, files = HEADER.match(text), tuple(CHANGED.findall(text))
    if not header or not files:
        sys.exit(f"mutants: {path.name} does not begin with Breaks: and Tests: lines, or changes nothing")
    return Mutant(path, tuple(header["tests"].split("|")), files, not header["unbuilt"])


# ---- the copy ----


def tree_files(commit: str | None) -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes and mode of every file of a commit, or of what git would add, or of the folder."""
    if commit:
        packed = subprocess.run(["git", "archive", commit], cwd=SOURCE, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                if member.isfile() and (data := archive.extractfile(member)):
                    yield member.name, data.read(), member.mode
        return
    listed = sh("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=SOURCE)
    names = listed.stdout.split("\0") if listed.returncode == 0 else [
        str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*") if p.relative_to(SOURCE).parts[0] not in ("build", ".git")]
    for path in (SOURCE / n for n in names if n):
        if path.is_file():
            yield str(path.relative_to(SOURCE)), path.read_bytes(), path.stat().st_mode


def copy_tree(to: Path, commit: str | None) -> None:
    """Writes only what differs, so that an earlier build in the copy stays good."""
    seen = set()
    for name, data, mode in tree_files(commit):
        copy = to / name
        seen.add(copy)
        if not copy.is_file() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            copy.chmod(mode & 0o777)
    for stale in [p for p in to.rglob("*") if p.is_file() and p not in seen]:
        if stale.relative_to(to).parts[0] != "build":
            stale.unlink()


# ---- build and test ----


def configure(tree: Path) -> None:
    done = sh("cmake", "-S", tree, "-B", tree / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_C_FLAGS=-O1",
              cwd=tree)
    if done.returncode:
        sys.exit(f"mutants: configuring failed:\n{done.stderr}")


@functools.cache
def known_tests(build: Path) -> dict[str, str]:
    """Test name -> what it starts."""
    listed = json.loads(sh("ctest", "--test-dir", build, "--show-only=json-v1", cwd=build).stdout)
    return {t["name"]: t.get("command", [t["name"]])[0] for t in listed["tests"]}


def targets(build: Path, tests: tuple[str, ...]) -> list[str]:
    """The plugins, the programs that the tests are, and for scripts the programs that they run."""
    known, outputs = known_tests(build), sh("ninja", "-t", "targets", "all", cwd=build).stdout
    linked = re.findall(r"^(\S+): (C_\w+_LINKER)", outputs, re.MULTILINE)
    programs = {Path(known.get(t, "")).name for t in tests}
    scripts = not programs <= {Path(name).name for name, rule in linked if "EXECUTABLE" in rule}
    return [name for name, rule in linked
            if "MODULE_LIBRARY" in rule or Path(name).name in programs or (scripts and name.startswith("bin/"))]


def build_targets(tree: Path, tests: tuple[str, ...]) -> str:
    """Nothing, or what the compiler said."""
    build = tree / "build"
    refreshed = sh("ninja", "build.ninja", cwd=build)
    done = refreshed if refreshed.returncode else sh("ninja", *targets(build, tests), cwd=build)
    return done.stdout[-2000:] if done.returncode else ""


def run_tests(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return sh("ctest", "--test-dir", tree / "build", "-R", f"^({'|'.join(tests)})$", "--no-tests=error", "--stop-on-failure",
              "--timeout", "120", cwd=tree)


def is_built(build: Path, mutant: Mutant) -> bool:
    """False for what is in a backend that this machine does not build."""
    folders = [build / m[0] for f in mutant.files if (m := BACKEND.match(f))]
    return all(any(folder.glob("CMakeFiles/*.dir")) for folder in folders)


# ---- a mutant ----


def problem(source: Path, build: Path, mutant: Mutant) -> str:
    """Why the mutant could not even be tried, or nothing."""
    applied = sh("git", "apply", "--check", mutant.path, cwd=source)
    if applied.returncode:
        return "does not apply: " + applied.stderr.strip().replace("\n", "; ")
    unknown = set(mutant.tests) - set(known_tests(build))
    return f"no test is named {', '.join(sorted(unknown))}" if unknown else ""


def verdict(tree: Path, mutant: Mutant) -> str:
    """CAUGHT, or why it was not."""
    if why := problem(tree, tree / "build", mutant):
        return why
    originals = {tree / f: ((tree / f).read_bytes(), (tree / f).stat()) for f in mutant.files}
    sh("git", "apply", mutant.path, cwd=tree)
    try:
        if mutant.builds and (message := build_targets(tree, mutant.tests)):
            return "does not compile: " + message
        done = run_tests(tree, mutant.tests)
        if done.returncode:
            return CAUGHT
        return SKIPPED if done.stdout.count("***Skipped") == len(mutant.tests) else "SURVIVED"
    finally:
        for path, (data, stat) in originals.items():
            path.write_bytes(data)
            if not mutant.builds:
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class Turn:
    """A lock on a machine that others build on, too: kept over several mutants, but not for long."""

    def __init__(self, path: str | None) -> None:
        self.file = open(path, "a") if path else None
        self.until = 0.0

    def take(self) -> None:
        if self.file and time.monotonic() > self.until:
            fcntl.flock(self.file, fcntl.LOCK_UN)
            time.sleep(1)
            fcntl.flock(self.file, fcntl.LOCK_EX)
            self.until = time.monotonic() + TURN_SECONDS


def run(tree: Path, mutants: list[Mutant], args: argparse.Namespace) -> int:
    os.environ["GIT_CEILING_DIRECTORIES"] = str(tree.parent)  # the copy is no part of a repository
    turn = Turn(args.lock)
    turn.take()
    copy_tree(tree, args.commit)
    configure(tree)
    mutants = [m for m in mutants if is_built(tree / "build", m)]
    tests = tuple(sorted({t for m in mutants for t in m.tests}))
    if message := build_targets(tree, tests):
        sys.exit(f"mutants: the unchanged tree does not build:\n{message}")
    if (clean := run_tests(tree, tests)).returncode:
        sys.exit(f"mutants: the unchanged tree fails:\n{clean.stdout[-2000:]}")
    started, failures = time.monotonic(), 0
    for number, mutant in enumerate(mutants, 1):
        turn.take()
        result = verdict(tree, mutant)
        failures += result not in (CAUGHT, SKIPPED)
        print(f"[{number}/{len(mutants)}] {mutant.name}: {result} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(mutants) - failures} passed, {failures} failed")
    return 1 if failures or not mutants else 0


def check(mutants: list[Mutant]) -> int:
    """Patches fit the source they stand beside and name tests of the build in CONSORT_TEST_BUILD."""
    build = Path(os.environ["CONSORT_TEST_BUILD"]).resolve()
    problems = [f"{m.name}: {why}" for m in mutants if is_built(build, m) and (why := problem(SOURCE, build, m))]
    print("\n".join(problems) or f"{len(mutants)} mutants apply")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants whose name contains one of these")
    parser.add_argument("--tree", type=Path, help="where the copy is kept and built again; a temporary folder unless told")
    parser.add_argument("--commit", help="copy this commit instead of the working tree")
    parser.add_argument("--lock", metavar="FILE", help="hold this lock while building and testing, a minute and a half at a time")
    parser.add_argument("--check", action="store_true", help="only see that patches apply and name tests that exist")
    args = parser.parse_args()
    paths = sorted(SOURCE.glob("tests/mutants/*.patch"))
    mutants = [read_mutant(p) for p in paths if not args.words or any(w in p.stem for w in args.words)]
    if not mutants:
        sys.exit("mutants: no patch matches")
    if args.check:
        return check(mutants)
    if args.tree:
        args.tree.mkdir(parents=True, exist_ok=True)
        return run(args.tree.resolve(), mutants, args)
    with tempfile.TemporaryDirectory(prefix="consort-mutants-") as folder:
        return run(Path(folder), mutants, args)


if __name__ == "__main__":
    sys.exit(main())
