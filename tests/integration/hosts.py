"""Hosts on one machine: each has its own network, processes, System V objects and name, and a cable to a common switch.

Shared memory does not reach from one to the other, so that what they say goes over TCP as between real machines. A cable
can be cut and narrowed. Everything is in namespaces whose first processes die with this one, and takes its interfaces with
it: nothing of the machine's own network is touched.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

TOOLS = ("unshare", "nsenter", "ip", "tc")
PR_SET_PDEATHSIG = 1
NAMESPACES = ("--net", "--mount", "--ipc", "--uts", "--pid")
# UCX and hwloc read /sys; it shows the interfaces of the network it was mounted in.
SETUP = "mount -t sysfs sysfs /sys && mount -t proc proc /proc && ip link set lo up && echo ready && exec sleep infinity"


def why_not() -> str | None:
    """Why there can be no hosts here; None when there can."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"{missing[0]} is not installed: scripts/deps --test installs it"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "sh", "-c", "mount -t sysfs sysfs /sys && ip link add type veth"],
                           capture_output=True, text=True, check=False)
    return f"namespaces are not permitted here: {tried.stderr.strip()}" if tried.returncode else None


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid: int) -> list[int]:
    return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]


class Host:
    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.holder = subprocess.Popen(["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", "-c", SETUP],
                                       stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        assert self.holder.stdout and self.holder.stdout.readline() == "ready\n", f"{name}: no namespaces"
        (self.pid,) = children(self.holder.pid)

    def command(self, *command: object) -> list[str]:
        """The command line that runs there."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-i", "-u", "-p", *map(str, command)]

    def configure(self, *command: object) -> None:
        """Runs a command with its network alone: process numbers are this machine's."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", *map(str, command)], check=True, timeout=20)

    def check(self, *command: object) -> str:
        return subprocess.run(self.command(*command), capture_output=True, text=True, check=True, timeout=20).stdout

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()
        if self.holder.stdout:
            self.holder.stdout.close()


class Hosts:
    """`with Hosts("a", "b") as hosts: hosts["a"].command("hostname")`"""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.switch: Host | None = None
        self.hosts: dict[str, Host] = {}
        self.narrowed: set[str] = set()

    def __enter__(self) -> Hosts:
        try:
            self.switch = Host("switch")
            self.switch.configure("ip", "link", "add", "br0", "type", "bridge")
            self.switch.configure("ip", "link", "set", "br0", "up")
            for number, name in enumerate(self.names, 1):
                self._add(number, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, number: int, name: str) -> None:
        assert self.switch
        host = self.hosts[name] = Host(name)
        host.address = f"10.77.0.{number}"
        self.switch.configure("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", host.pid)
        self.switch.configure("ip", "link", "set", f"to-{name}", "master", "br0", "up")
        host.configure("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.configure("ip", "link", "set", "eth0", "up")

    def __exit__(self, *_: object) -> None:
        for host in [*self.hosts.values(), *([self.switch] if self.switch else [])]:
            host.close()
        self.hosts = {}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, name: str) -> None:
        """Pulls the host's cable out of the switch."""
        assert self.switch
        self.switch.configure("ip", "link", "set", f"to-{name}", "down")

    def mend(self, name: str) -> None:
        assert self.switch
        self.switch.configure("ip", "link", "set", f"to-{name}", "up")

    def sent_to(self, name: str) -> int:
        """Bytes that went over the host's cable to it."""
        assert self.switch
        return int(self.switch.check("cat", f"/sys/class/net/to-{name}/statistics/tx_bytes"))

    def narrow(self, name: str, rate: str | None) -> None:
        """Limits what the host is sent to a rate like "8mbit"; the switch holds all that waits. None: no limit."""
        assert self.switch
        if rate:
            self.switch.configure("tc", "qdisc", "replace", "dev", f"to-{name}", "root", "tbf", "rate", rate, "burst",
                                  "64kb", "limit", "64mb")
            self.narrowed.add(name)
        elif name in self.narrowed:
            self.narrowed.remove(name)
            self.switch.configure("tc", "qdisc", "del", "dev", f"to-{name}", "root")


class Daemon:
    """A long-running program, on a host or here, whose lines are read as they come."""

    def __init__(self, *command: object, host: Host | None = None, env: dict[str, str] | None = None) -> None:
        line = host.command(*command) if host else [str(c) for c in command]
        self.in_host = host is not None
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                        stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})},
                                        preexec_fn=die_with_parent)
        self.lines: list[str] = []

    def wait_for(self, beginning: str) -> str:
        """The rest of the first line that begins so."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return line[len(beginning):].strip()
        raise AssertionError(f"{self.process.args} ended: {self.lines}")

    @property
    def pid(self) -> int:
        """Of the program itself, not of nsenter before it."""
        return children(self.process.pid)[0] if self.in_host else self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def rss_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def n_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Ends it and returns its status; whoever does not end in time is killed."""
        deadline = time.monotonic() + timeout
        if self.process.poll() is None:
            try:
                self.send(number)
            except (ProcessLookupError, IndexError):
                pass
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.process.args} did not end on signal {number} in {timeout} s") from None
        finally:
            self._drain()
        return self.process.returncode

    def kill(self) -> None:
        for pid in [*children(self.process.pid), self.process.pid] if self.process.poll() is None else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self._drain()

    def _drain(self) -> None:
        if self.process.stdout and not self.process.stdout.closed:
            self.lines.extend(self.process.stdout.read().splitlines())
            self.process.stdout.close()
