"""The consort program and the reference files, for integration tests.

Environment: CONSORT_TEST_PROGRAM is the program, CONSORT_TEST_DATA a folder with more models (may be unset),
CONSORT_TEST_SEED fixes the seed of what is drawn at random.
"""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(SOURCE / "tests" / "reference"), str(SOURCE / "tools")]
PROGRAM = os.environ.get("CONSORT_TEST_PROGRAM", "consort")
DEMO_Q8_0 = SOURCE / "models" / "demo" / "consort-demo-q8_0.gguf"
DEMO_F32 = SOURCE / "models" / "demo" / "consort-demo-f32.gguf"
SEED = int(os.environ.get("CONSORT_TEST_SEED", time.time_ns() % 1_000_000))
RANDOM = random.Random(SEED)


def consort(*arguments: object, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs the program; text is decoded as UTF-8 with replacement."""
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, errors="replace", check=False,
                          timeout=timeout, env={**os.environ, **(env or {})})


def consort_json(*arguments: object, env: dict[str, str] | None = None) -> Any:
    """Runs the program with --json and returns the object; an AssertionError shows its standard error."""
    done = consort(*arguments, "--json", env=env)
    assert done.returncode == 0, f"{arguments}: status {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


@functools.cache
def devices() -> list[str]:
    """Names of the devices of this machine that are not simulations."""
    plugins = consort_json("devices")["plugins"]
    return [d["name"] for p in plugins for d in p.get("devices", []) if not d.get("software")]


def stories() -> Path | None:
    """The small trained F32 model outside the tree, where there is one."""
    folder = os.environ.get("CONSORT_TEST_DATA")
    path = Path(folder) / "models" / "stories260K.gguf" if folder else None
    return path if path and path.is_file() else None


@functools.cache
def scratch() -> Path:
    """A folder that goes with the process."""
    keeper = tempfile.TemporaryDirectory(prefix="consort-test-")
    scratch.keeper = keeper  # type: ignore[attr-defined]
    return Path(keeper.name)
