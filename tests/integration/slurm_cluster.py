"""A Slurm cluster of one machine: slurmctld and a slurmd for each node of examples/slurm, as root and without munge.

Everything lives in a temporary folder and on ports of its own. The nodes, chips and types come from the example's files,
so that these cannot rot; the devices in /dev become null devices in the folder. Everything ends with the `with` block, and
with the process in any case: the daemons ask the kernel for that, and what they started is found by the folder's name.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from program import SOURCE

EXAMPLES = SOURCE / "examples" / "slurm"
PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "sinfo", "scontrol")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
START_SECONDS = 20

HEAD = """\
ClusterName=consort-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
"""


def why_not() -> str | None:
    """Why there can be no cluster here; None when there can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"Slurm is not installed ({missing[0]}): scripts/deps --test installs it"
    if os.geteuid() != 0:
        return "a Slurm cluster without munge needs root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(f"{folder}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except OSError as error:
            return f"device files cannot be made here: {error}"
    return None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def expand(pattern: str) -> list[str]:
    """"/dev/chip[0-2,5]" as Slurm reads it."""
    match = re.fullmatch(r"(.*)\[([0-9,-]+)\]", pattern)
    if not match:
        return [pattern]
    numbers: list[int] = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return [f"{match[1]}{n}" for n in numbers]


class SlurmCluster:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="consort-slurm-"))
        self.config = self.folder / "slurm.conf"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "CONSORT_SLURM_"))}
        self.env["SLURM_CONF"] = str(self.config)
        self.nodes: list[str] = []
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the daemons leave behind comes here
        self.daemons: list[subprocess.Popen] = []

    def __enter__(self) -> SlurmCluster:
        try:
            self._configure()
            self._start("slurmctld", "-D", "-f", str(self.config))
            for node in self.nodes:
                self._start("slurmd", "-D", "-N", node, "-f", str(self.config))
            self._wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.kill()
        for daemon in self.daemons:
            daemon.wait()
        for pid in self.leftovers():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._reap()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _reap() -> None:
        deadline = time.monotonic() + 2
        try:
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)
        except ChildProcessError:
            pass

    # ---- making it ----

    def _configure(self) -> None:
        gres = (EXAMPLES / "gres.conf").read_text().replace("File=/dev/", f"File={self.folder}/")
        (self.folder / "gres.conf").write_text(gres)
        for pattern in re.findall(r"^[^#\n]*\bFile=(\S+)", gres, re.MULTILINE):
            for path in expand(pattern):
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        host = socket.gethostname()
        lines = []
        for line in (EXAMPLES / "slurm.conf").read_text().replace("/etc/slurm", str(EXAMPLES)).splitlines():
            match = re.match(r"NodeName=(\S+)", line)
            if match:
                self.nodes.append(match[1])
                line += f" NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()}"
            lines.append(line)
        self.config.write_text(HEAD.format(host=host, port=free_port(), folder=self.folder) + "\n".join(lines) + "\n")

    def _start(self, *command: str) -> None:
        log = open(self.folder / f"{'-'.join(command[::2])[:40].replace('/', '_')}.log", "wb")  # noqa: SIM115
        with log:
            self.daemons.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT,
                                                 stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent))

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        states = ""
        while time.monotonic() < deadline:
            states = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %t"], env=self.env, capture_output=True, text=True,
                                    check=False, timeout=START_SECONDS).stdout
            if sum(line.endswith(" idle") for line in states.splitlines()) == len(self.nodes):
                return
            for daemon in self.daemons:
                if daemon.poll() is not None:
                    raise RuntimeError(f"{daemon.args} ended with {daemon.returncode}: {self.logs()}")
            time.sleep(0.1)
        raise RuntimeError(f"Slurm was not ready in {START_SECONDS} s: {states} {self.logs()}")

    def logs(self) -> str:
        return "".join(f"\n== {p.name}\n{p.read_text(errors='replace')[-2000:]}" for p in sorted(self.folder.glob("*.log")))

    def leftovers(self) -> list[int]:
        """Processes of the cluster: their environment or command line has the folder's name."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.folder).encode() in known:
                found.append(int(entry.name))
        return found

    # ---- using it ----

    def run(self, *command: object, env: dict[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(c) for c in command], env={**self.env, **(env or {})}, capture_output=True, text=True,
                              errors="replace", check=False, timeout=timeout, stdin=subprocess.DEVNULL)
