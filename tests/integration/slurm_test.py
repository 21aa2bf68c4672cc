"""Under a real Slurm: a worker's offer is what the job was given."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unittest
from pathlib import Path

from program import PROGRAM, scratch
from slurm_cluster import SlurmCluster, why_not

CHIPS = ("cpu:0", "npu-sim:0", "null:0")


def plugins(*names: str) -> dict[str, str]:
    """An environment in which these plugins are found, beside those that always are."""
    folder = scratch() / "-".join(names)
    if not folder.exists():
        folder.mkdir()
        development = Path(os.environ["CONSORT_TEST_BUILD"]) / "lib/consort/plugins-development"
        for name in names:
            shutil.copy(development / f"{name}.plugin", folder)
            (folder / f"consort-{name}.so").symlink_to(development / f"consort-{name}.so")
    return {"CONSORT_PLUGIN_PATH": str(folder)}


class SlurmTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.cluster = cls.enterClassContext(SlurmCluster())

    def offers(self, *request: str, env: dict[str, str]) -> dict[str, tuple[str, str]]:
        """What a worker would offer in a step that makes the request: name -> verdict, reason."""
        done = self.cluster.run("srun", "-n1", *request, PROGRAM, "devices", "--json", env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        devices = [d for p in json.loads(done.stdout)["plugins"] for d in p["devices"]]
        return {d["name"]: (d["offer"], d["offer_reason"]) for d in devices if d["name"] in CHIPS}

    def test_a_step_without_chips_has_processors(self) -> None:
        offers = self.offers("-w", "n1", env=plugins("npu-sim"))
        self.assertEqual({name: verdict for name, (verdict, _) in offers.items()}, {"cpu:0": "yes", "npu-sim:0": "no"})

    def test_an_ordinal_is_the_index_of_the_only_plugin_with_chips(self) -> None:
        offers = self.offers("-w", "n1", "--gres=gpu:sim-a:2", env=plugins("npu-sim"))
        self.assertEqual(offers["npu-sim:0"], ("yes", "SLURM_STEP_GPUS=0,1, and the driver shows no others"))
        offers = self.offers("-w", "n1", "--gres=gpu:sim-a:1", env=plugins("npu-sim"))
        self.assertEqual(offers["npu-sim:0"], ("yes", "SLURM_STEP_GPUS=0"))

    def test_two_kinds_of_chips_need_the_operator_s_list(self) -> None:
        env = plugins("npu-sim", "null")
        offers = self.offers("-w", "n3", "--gres=gpu:sim-b:1", env=env)
        self.assertEqual((offers["npu-sim:0"][0], offers["null:0"][0]), ("named", "named"))
        env = {**env, "CONSORT_SLURM_DEVICES": "npu-sim:0,null:0"}
        offers = self.offers("-w", "n3", "--gres=gpu:sim-b:1", env=env)
        self.assertEqual((offers["npu-sim:0"][0], offers["null:0"][0]), ("no", "yes"))
        offers = self.offers("-w", "n3", "--gres=gpu:sim-a:1", env=env)
        self.assertEqual((offers["npu-sim:0"][0], offers["null:0"][0]), ("yes", "no"))

    def test_a_share_of_a_chip_says_so(self) -> None:
        verdict, reason = self.offers("-w", "n1", "--gres=shard:3", env=plugins("npu-sim"))["npu-sim:0"]
        self.assertEqual(verdict, "yes")
        self.assertTrue(reason.endswith("shared: SLURM_SHARDS_ON_NODE=3"), reason)

    def test_chips_that_slurm_does_not_name_are_offered_by_name_only(self) -> None:
        verdict, reason = self.offers("-w", "n1", "--gpus-per-task=sim-a:1", env=plugins("npu-sim"))["npu-sim:0"]
        self.assertIn(verdict, ("named", "yes"))
        if verdict == "named":
            self.assertIn("no variable says which", reason)

    def test_a_step_does_not_take_what_its_script_has(self) -> None:
        script = self.cluster.folder / "script"
        script.write_text(f"#!/bin/sh\n{PROGRAM} devices --json\necho ---\nsrun -n1 --gres=none {PROGRAM} devices --json\n")
        out = self.cluster.folder / "script.out"
        done = self.cluster.run("sbatch", "-W", "-n1", "-w", "n1", "--gres=gpu:sim-a:1", "-o", out, script, env=plugins("npu-sim"))
        self.assertEqual(done.returncode, 0, done.stderr)
        verdicts = [next(d["offer"] for p in json.loads(text)["plugins"] for d in p["devices"] if d["name"] == "npu-sim:0")
                    for text in out.read_text().split("---")]
        self.assertEqual(verdicts, ["yes", "no"])


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main(verbosity=2)
