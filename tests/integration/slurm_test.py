"""Under a real Slurm: a worker's offer is what the job was given."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unittest
from pathlib import Path

from program import DEMO_Q8_0, PROGRAM, consort_json, devices, scratch
from slurm_cluster import EXAMPLES, SlurmCluster, why_not

CHIPS = ("cpu:0", "npu-sim:0", "null:0", "opencl:0")


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
        self.assertEqual((offers["cpu:0"][0], offers["npu-sim:0"][0]), ("yes", "no"))

    def test_an_ordinal_is_the_index_of_the_only_plugin_with_chips(self) -> None:
        offers = self.offers("-w", "n1", "--gres=gpu:sim-a:2", env=plugins("npu-sim"))
        self.assertEqual(offers["npu-sim:0"], ("yes", "SLURM_STEP_GPUS=0,1, and the driver shows no others"))
        offers = self.offers("-w", "n1", "--gres=gpu:sim-a:1", env=plugins("npu-sim"))
        self.assertEqual(offers["npu-sim:0"], ("yes", "SLURM_STEP_GPUS=0"))

    def test_two_kinds_of_chips_need_the_operator_s_list(self) -> None:
        env = plugins("npu-sim", "null")
        offers = self.offers("-w", "n1", "--gres=gpu:sim-a:1", env=env)
        self.assertEqual((offers["npu-sim:0"][0], offers["null:0"][0]), ("named", "named"))
        listed = {**env, "CONSORT_SLURM_DEVICES": "null:0,npu-sim:0"}
        offers = self.offers("-w", "n1", "--gres=gpu:sim-a:1", env=listed)
        self.assertEqual((offers["npu-sim:0"][0], offers["null:0"][0]), ("no", "yes"))

    def test_a_task_prolog_gives_the_list(self) -> None:
        env = plugins("npu-sim")
        offers = self.offers("-w", "n3", "--gres=gpu:sim-a:1", env=env)
        self.assertEqual(offers["npu-sim:0"], ("yes", "SLURM_STEP_GPUS=0: number 0 of CONSORT_SLURM_DEVICES"))
        offers = self.offers("-w", "n3", "--gres=gpu:sim-b:1", env=env)
        self.assertEqual(offers["npu-sim:0"][0], "no")
        if "opencl:0" in offers:
            self.assertEqual(offers["opencl:0"], ("yes", "SLURM_STEP_GPUS=1: number 1 of CONSORT_SLURM_DEVICES"))

    def test_a_worker_offers_what_its_step_was_given(self) -> None:
        env = plugins("npu-sim")
        done = self.cluster.run("srun", "-n1", "-w", "n1", PROGRAM, "worker", "--listen", "127.0.0.1:0", "--device",
                                "npu-sim:0", env=env)
        self.assertEqual(done.returncode, 1)
        self.assertIn("npu-sim:0: the job was given no such device: no SLURM_STEP_GPUS", done.stderr)
        both = plugins("npu-sim", "null")
        done = self.cluster.run("srun", "-n1", "-w", "n1", "--gres=gpu:sim-a:1", PROGRAM, "worker", "--listen", "127.0.0.1:0",
                                env=both)
        self.assertEqual(done.returncode, 1)
        self.assertIn("may mean npu-sim:0 or null:0", done.stderr)

    def test_a_heterogeneous_job_runs_a_prompt_through_two_kinds_of_chips(self) -> None:
        env = {**plugins("npu-sim"), "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}"}
        prompt = "ROMEO:\nBut soft, what light through yonder window breaks?\n"
        if "opencl:0" not in devices():
            self.skipTest("there is no OpenCL device to decode on")
        out, errors = self.cluster.folder / "job.out", self.cluster.folder / "job.err"
        done = self.cluster.run("sbatch", "-W", "-D", self.cluster.folder, "-o", out, "-e", errors, EXAMPLES / "job.sh",
                                DEMO_Q8_0, prompt, env=env, timeout=90)
        self.assertEqual(done.returncode, 0, f"{done.stderr} {errors.read_text() if errors.exists() else ''}")
        result = json.loads(out.read_text())
        self.assertRegex(result["prefill"]["device"], r"^127\.0\.0\.1:\d+/npu-sim:0$")
        self.assertRegex(result["decode"]["device"], r"^127\.0\.0\.1:\d+/opencl:0$")
        self.assertTrue(result["kv_transfer"]["verified"])
        os.environ.update(plugins("npu-sim"))
        local = consort_json("run", DEMO_Q8_0, "-p", prompt, "--temp", 0, "--prefill", "npu-sim:0", "--decode", "opencl:0")
        self.assertEqual(result["tokens"], local["tokens"])

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
