"""The kit's arguments, exit status, waivers and reports."""

import subprocess
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

from kit import CPU, KIT, NPU, NULL, SOURCE, run


def waive(text: str) -> tuple[int, str]:
    """Exit status and standard error of a run of add/* in which add/f32 fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "waivers"
        path.write_text(text)
        done = run(CPU, "--only", "add/f32", "--waive", str(path), fault="launch:1:6")
        return done.status, done.err


class Reports(unittest.TestCase):

    def test_wrong_usage_ends_with_2(self) -> None:
        for arguments in ([], ["--nonsense"], [CPU, "--device"], [CPU, "--require", "Gold"], [CPU, "--seed", "x"]):
            done = subprocess.run([KIT, *arguments], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("usage:", done.stderr)

    def test_what_is_no_plugin_is_one_clear_line(self) -> None:
        done = run("/nowhere/consort-none.so", json_report=False)
        self.assertEqual(done.status, 1)
        self.assertIn("consort-cts: error: /nowhere/consort-none.so:", done.err)

    def test_a_missing_badge_fails(self) -> None:
        done = run(CPU, "--only", "add/f32", "--require", "Core")
        self.assertEqual(done.status, 1)
        self.assertEqual(done.report["missing_badges"], ["Core"])

    def test_json_has_what_the_design_promises(self) -> None:
        report = run(CPU, "--only", "*/f32").report
        self.assertEqual((report["plugin"], report["device"]), ("cpu", "cpu:0"))
        self.assertEqual(set(report["tests"]), {"run", "passed", "failed", "unsupported", "waived"})
        self.assertEqual(sum(report["tests"][key] for key in ("passed", "failed", "unsupported", "waived")),
                         report["tests"]["run"])
        for op in report["ops"]:
            self.assertLessEqual({"op", "dtype", "status", "nmse", "max_error", "p50_us", "roofline_fraction"}, set(op))

    def test_the_same_seed_gives_the_same_errors(self) -> None:
        first, second = (run(CPU, "--only", "matmul/f32", "--seed", "7").report for _ in range(2))
        self.assertEqual(first["ops"][0]["nmse"], second["ops"][0]["nmse"])
        self.assertEqual(first["seed"], 7)

    def test_junit_and_html_are_written(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            junit, html = Path(folder) / "report.xml", Path(folder) / "report.html"
            done = run(CPU, "--only", "add/*", "--junit", str(junit), "--html", str(html))
            self.assertEqual(done.status, 0, done.out)
            suite = xml.etree.ElementTree.parse(junit).getroot()
            self.assertEqual(int(suite.get("tests")), len(suite.findall("testcase")))
            page = html.read_text()
            for part in ("<h2>Ops</h2>", "Disaggregated", "largest error", "of roofline", "What to do next", "Not served: 2 cases"):
                self.assertIn(part, page)
            self.assertNotIn("src=", page)

    def test_what_to_do_next_is_told(self) -> None:
        done = run(CPU, "--only", "add/*", fault="launch:1:6")
        self.assertIn("next: Mend add/f32: ", done.out)
        self.assertIn("--seed", done.report["next"][-1])
        done = run(NULL, "--only", "device/properties,profile/*,rope/interleaved")
        self.assertTrue(any(line.startswith("Mend rope/interleaved") for line in done.report["next"]), done.report["next"])
        done = run(NPU)
        self.assertTrue(done.report["next"][0].startswith("For the badge LLM-dense, serve "), done.report["next"])

    def test_a_waiver_with_a_reason_passes(self) -> None:
        self.assertEqual(waive("add/f32: the driver drops its first launch\n")[0], 0)

    def test_a_waiver_without_a_reason_fails(self) -> None:
        status, err = waive("add/f32:\n")
        self.assertEqual(status, 1)
        self.assertIn("a waiver needs a reason", err)

    def test_a_waiver_that_is_not_needed_fails(self) -> None:
        status, err = waive("add/f32: known\nrope/*: fixed long ago\n")
        self.assertEqual(status, 1)
        self.assertIn("remove it", err)

    def test_the_page_of_ops_is_up_to_date(self) -> None:
        made = subprocess.run([KIT, "--print-ops"], capture_output=True, text=True, check=True).stdout
        self.assertEqual((SOURCE / "docs" / "ops.md").read_text(), made)


if __name__ == "__main__":
    unittest.main()
