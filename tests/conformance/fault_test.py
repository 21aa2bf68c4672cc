"""Every injected fault comes back as a status with an op index, within its deadline: no crash of the kit, no hang."""

import unittest

from kit import CPU, run

FAILED, DEVICE_LOST, OUT_OF_MEMORY = 6, 7, 4


class Faults(unittest.TestCase):

    def check(self, fault: str, name: str, message: str, *, seconds: float = 20) -> None:
        done = run(CPU, "--only", name, "--timeout", "12", fault=fault)
        self.assertEqual(done.status, 1, done.out)
        case = done.case(name)
        self.assertEqual(case["status"], "failed", done.out)
        self.assertIn(message, case["message"])
        self.assertLess(case["seconds"], seconds)

    def test_a_failed_launch_names_its_op(self) -> None:
        self.check(f"launch:1:{FAILED}", "add/f32", f"status {FAILED}, op 0")

    def test_a_failed_launch_keeps_its_status(self) -> None:
        self.check("launch:2:10", "add/f32", "status 10, op 0")

    def test_a_lost_device_is_told(self) -> None:
        self.check("lost:1", "add/f32", f"status {DEVICE_LOST}")

    def test_a_failed_allocation_is_told(self) -> None:
        self.check("alloc:1", "memory/sizes", f"status {OUT_OF_MEMORY}")

    def test_a_hung_stream_ends_by_its_deadline(self) -> None:
        self.check("hang:1", "add/f32", "status 5", seconds=9)

    def test_a_crash_costs_one_case(self) -> None:
        done = run(CPU, "--only", "add/*", fault="crash:1")
        self.assertEqual(done.status, 1, done.out)
        self.assertIn("crashed with signal", done.case("add/f32")["message"])
        self.assertEqual(done.case("add/f32/infinities")["status"], "failed")

    def test_slow_and_reordered_completion_is_legal(self) -> None:
        for fault in ("slow:300", "reorder", "slow:100,reorder"):
            with self.subTest(fault=fault):
                for pattern in ("streams/*", "replay/add/f32", "add/f32/infinities"):
                    done = run(CPU, "--only", pattern, fault=fault)
                    self.assertEqual(done.status, 0, done.out)

    def test_an_unknown_fault_is_refused(self) -> None:
        done = run(CPU, "--only", "add/f32", fault="nonsense")
        self.assertEqual(done.status, 1)
        self.assertIn("no such fault", done.err)

    def test_faults_come_as_a_device_option_too(self) -> None:
        done = run(CPU, "--only", "add/f32", "--option", f"fault=launch:1:{FAILED}", fault="")
        self.assertIn(f"status {FAILED}", done.case("add/f32")["message"])


if __name__ == "__main__":
    unittest.main()
