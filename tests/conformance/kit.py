"""Runs consort-cts for the tests of the kit and of the fault plugin."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

KIT = os.environ["CONSORT_TEST_KIT"]
CPU = os.environ["CONSORT_TEST_CPU_PLUGIN"]
NULL = os.environ["CONSORT_TEST_NULL_PLUGIN"]
NPU = os.environ["CONSORT_TEST_NPU_PLUGIN"]
FAULT = os.environ["CONSORT_TEST_FAULT_PLUGIN"]
TABLES = os.environ["CONSORT_TEST_TABLES_PLUGIN"]
SANITIZED = b"__sanitizer_" in Path(KIT).read_bytes()
SOURCE = Path(os.environ["CONSORT_TEST_SOURCE"])


@dataclass(frozen=True)
class Run:
    """What one run of the kit gave."""

    status: int
    out: str
    err: str
    seconds: float
    report: dict

    def case(self, name: str) -> dict:
        """The result of one case; KeyError when it did not run."""
        for case in self.report["cases"]:
            if case["name"] == name:
                return case
        raise KeyError(name)


def run(plugin: str, *arguments: str, fault: str | None = None, json_report: bool = True) -> Run:
    """One quick run without measurements; `fault` wraps `plugin` in the fault plugin."""
    environment = dict(os.environ)
    if fault is not None:
        environment |= {"CONSORT_FAULT_TARGET": plugin, "CONSORT_FAULT": fault}
        plugin = FAULT
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [KIT, plugin, "--quick", "--no-speed", "--seed", "1", *arguments]
        if json_report:
            command += ["--json", str(path)]
        begin = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        seconds = time.monotonic() - begin
        report = json.loads(path.read_text()) if path.exists() else {}
    return Run(done.returncode, done.stdout, done.stderr, seconds, report)
