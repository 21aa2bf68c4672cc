"""Makes docs/support.md from the kit's JSON reports.

    python3 support_page.py REPORT.json... [--software NAME]... [--compiled NAME]... > docs/support.md

A plugin that ran on a driver for tests is named by --software, one that could only be compiled where the page was made by
--compiled.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

BADGES = ("Core", "LLM-dense", "LLM-quant", "MoE", "Disaggregated")
MARKS = {"passed": "yes", "failed": "**failed**", "waived": "waived", "unsupported": "·"}


def ran_on(report: dict, software: list[str]) -> str:
    """Whether the device was a chip or a stand-in for one."""
    is_software = report["properties"]["software"] or report["plugin"] in software
    return "a software device" if is_software else "hardware"


def plugin_rows(reports: list[dict], software: list[str], compiled: list[str]) -> list[str]:
    rows = ["| plugin | ran on | device | " + " | ".join(BADGES) + " | cases passed | failed | not served |",
            "|---|---|---|" + "---|" * (len(BADGES) + 3)]
    for report in reports:
        tests = report["tests"]
        badges = " | ".join("yes" if badge in report["badges"] else "·" for badge in BADGES)
        rows.append(f"| `{report['plugin']}` | {ran_on(report, software)} | {report['properties']['description']}, "
                    f"{report['properties']['driver']} | {badges} | {tests['passed']} | {tests['failed']} | "
                    f"{tests['unsupported']} |")
    rows += [f"| `{name}` | only compiled | | " + " | ".join("·" * (len(BADGES) + 3)) + " |" for name in compiled]
    return rows


def op_rows(reports: list[dict]) -> list[str]:
    status: dict[tuple[str, str], dict[str, str]] = {}
    for report in reports:
        for op in report["ops"]:
            status.setdefault((op["op"], op["dtype"]), {})[report["plugin"]] = MARKS[op["status"]]
    plugins = [report["plugin"] for report in reports]
    rows = ["| op | dtype | " + " | ".join(f"`{plugin}`" for plugin in plugins) + " |",
            "|---|---|" + "---|" * len(plugins)]
    return rows + [f"| `{op}` | {dtype} | " + " | ".join(found.get(plugin, "·") for plugin in plugins) + " |"
                   for (op, dtype), found in status.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files that consort-cts wrote")
    parser.add_argument("--software", action="append", default=[], help="a plugin that ran on a driver for tests")
    parser.add_argument("--compiled", action="append", default=[], help="a plugin that was only compiled")
    args = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in args.reports]
    print("# What is supported\n")
    print("Made by `plugins/conformance/support_page.py` from the JSON of `consort-cts PLUGIN.so --json FILE`. The dtype of "
          "an op is that of its weights, table or cache, else of its activations.\n")
    print("\n".join(plugin_rows(reports, args.software, args.compiled)))
    print("\n## Ops\n")
    print("\n".join(op_rows(reports)))


if __name__ == "__main__":
    main()
