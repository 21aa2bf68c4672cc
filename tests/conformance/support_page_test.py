"""docs/support.md says of each plugin the badges that its conformance test has just earned."""

import json
import os
import re
import sys
import unittest
from pathlib import Path

SOURCE = Path(os.environ["CONSORT_TEST_SOURCE"])
REPORTS = sorted(Path(os.environ["CONSORT_TEST_REPORTS"]).glob("*.json"))
BADGES = ("Core", "LLM-dense", "LLM-quant", "MoE", "Disaggregated")


def page_badges() -> dict[str, list[str]]:
    """Plugin -> badges, from the first table of the page."""
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", (SOURCE / "docs" / "support.md").read_text().split("## Ops")[0], re.MULTILINE)
    cells = {name: [cell.strip() for cell in row.split("|")] for name, row in rows}
    return {name: [badge for badge, cell in zip(BADGES, row[2:]) if cell == "yes"] for name, row in cells.items()}


class SupportPage(unittest.TestCase):

    def test_the_badges_of_the_page_are_those_that_are_earned(self) -> None:
        page = page_badges()
        for path in REPORTS:
            report = json.loads(path.read_text())
            with self.subTest(plugin=report["plugin"]):
                self.assertEqual(page.get(report["plugin"]), report["badges"], "docs/support.md has to be made anew")


if __name__ == "__main__":
    if not REPORTS:
        print("no conformance test has left a report: skipped")
        sys.exit(77)
    unittest.main()
