#!/usr/bin/env python3
"""KV of 4,096 tokens (llama-1b, f16: 128 MiB in pieces of 1 MiB) from one process to another, beside UCX's own
bandwidth test on the same path, taken in turns: transfer_bench.py BUILD [ROUNDS]. UCX_TLS chooses the path.

Needs ucx_perftest (Debian: ucx-utils)."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

MIB = 1 << 20


def perftest() -> float:
    """UCX's active messages of 1 MiB, in MB/s, with what a connection here asks for: errors reported, wake-up."""
    port = str(20000 + os.getpid() % 20000)
    env = {**os.environ, "UCX_TCP_SNDBUF": "4m", "UCX_TCP_RCVBUF": "4m", "UCX_NET_DEVICES": "lo"}
    server = subprocess.Popen(["ucx_perftest", "-p", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        time.sleep(0.3)
        done = subprocess.run(["ucx_perftest", "127.0.0.1", "-p", port, "-t", "ucp_am_bw", "-s", str(MIB), "-n", "1200",
                               "-w", "100", "-e", "-I"], capture_output=True, text=True, timeout=60, check=True, env=env)
    finally:
        server.kill()
        server.wait()
    final = next(line for line in done.stdout.splitlines() if line.startswith("Final:"))
    return float(final.split()[6]) * MIB / 1e6


def main() -> None:
    build, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    ucx, link, verified = [], [], []
    for _ in range(rounds):
        ucx.append(perftest())
        done = subprocess.run([f"{build}/tests/transfer_bench"], capture_output=True, text=True, check=True, timeout=120)
        result = json.loads(done.stdout)
        link.append(result["link_mb_per_s"])
        verified.append(result["verified_mb_per_s"])
        print(f"ucp_am_bw {ucx[-1]:6.0f} MB/s   link {link[-1]:6.0f}   with checksums {verified[-1]:6.0f}", flush=True)
    share = statistics.median(l / u for l, u in zip(link, ucx))
    checked = statistics.median(v / u for v, u in zip(verified, ucx))
    print(f"link: {100 * share:.0f} % of ucp_am_bw; with checksums made and verified: {100 * checked:.0f} %")


main()
