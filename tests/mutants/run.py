"""Applies each mutant to a copy of the tree, builds, and expects a test to turn red.

    python3 tests/mutants/run.py [--build-dir DIR] [--keep] [WORD ...]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
HEADER = re.compile(r"^Breaks: (?P<what>.+)\nTests: (?P<tests>.+)$", re.MULTILINE)


def sh(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)


def copy_tree(to: Path) -> None:
    """The files that git knows or would add, as they are in the working tree."""
    listed = sh("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=SOURCE).stdout
    for name in filter(None, listed.split("\0")):
        if (SOURCE / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, to / name)


def configure(tree: Path) -> None:
    done = sh("cmake", "-S", tree, "-B", tree / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", cwd=tree)
    if done.returncode:
        sys.exit(f"mutants: configuring failed:\n{done.stderr}")


def build(tree: Path) -> bool:
    return sh("cmake", "--build", tree / "build", cwd=tree).returncode == 0


def run_tests(tree: Path, pattern: str) -> subprocess.CompletedProcess[str]:
    return sh("ctest", "--test-dir", tree / "build", "-R", f"^({pattern})$", "--no-tests=error", "--stop-on-failure",
              "--timeout", "120", cwd=tree)


def verdict(tree: Path, patch: Path, pattern: str) -> str:
    """"caught", or why it was not."""
    applied = sh("patch", "-p1", "--forward", "--fuzz=0", "-i", patch, cwd=tree)
    if applied.returncode:
        return "does not apply: " + applied.stdout.strip().replace("\n", "; ")
    try:
        if not build(tree):
            return "does not compile"
        tests = run_tests(tree, pattern)
        if "No tests were found" in tests.stdout + tests.stderr:
            return f"no test is named {pattern}"
        return "caught" if tests.returncode else "SURVIVED"
    finally:
        sh("patch", "-p1", "--reverse", "-i", patch, cwd=tree)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants whose name contains one of these")
    parser.add_argument("--keep", action="store_true", help="keep the copy and say where it is")
    args = parser.parse_args()
    patches = sorted(SOURCE.glob("tests/mutants/*.patch"))
    patches = [p for p in patches if not args.words or any(w in p.stem for w in args.words)]
    if not patches:
        sys.exit("mutants: no patch matches")
    tree = Path(tempfile.mkdtemp(prefix="consort-mutants-"))
    started = time.monotonic()
    try:
        copy_tree(tree)
        configure(tree)
        if not build(tree):
            sys.exit("mutants: the unchanged tree does not build")
        headers = {p: HEADER.search(p.read_text()) for p in patches}
        patterns = sorted({t for h in headers.values() if h for t in h["tests"].split("|")})
        if (clean := run_tests(tree, "|".join(patterns))).returncode:
            sys.exit(f"mutants: the unchanged tree fails:\n{clean.stdout[-2000:]}")
        failures = 0
        for number, patch in enumerate(patches, 1):
            header = headers[patch]
            result = verdict(tree, patch, header["tests"]) if header else "has no Breaks: and Tests: lines"
            failures += result != "caught"
            print(f"[{number}/{len(patches)}] {patch.stem}: {result} ({time.monotonic() - started:.0f} s)", flush=True)
        print(f"{len(patches) - failures} passed, {failures} failed")
        return 1 if failures else 0
    finally:
        if args.keep:
            print(f"kept {tree}")
        else:
            shutil.rmtree(tree, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
