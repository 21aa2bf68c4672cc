"""A plugin that is wrong has to fail the kit: lying answers, a skipped write, errors at twice the tolerance."""

import unittest

from kit import CPU, NULL, SANITIZED, run

RESULTS = ("add/f32", "silu_mul/f32", "rms_norm/f32", "rope/interleaved", "matmul/f32", "matmul/q8_0", "matmul/q4_0",
           "attention_paged/f32/preferred", "gather_rows/f32")


class KitPower(unittest.TestCase):

    def check_all_fail(self, fault: str, names: tuple[str, ...]) -> None:
        done = run(CPU, "--only", ",".join(names), fault=fault)
        self.assertEqual(done.status, 1, done.out)
        for name in names:
            with self.subTest(fault=fault, case=name):
                self.assertEqual(done.case(name)["status"], "failed", done.out)

    def test_a_wrapped_plugin_without_faults_passes(self) -> None:
        done = run(CPU, "--require", "Core,LLM-dense,LLM-quant,Disaggregated", fault="")
        self.assertEqual(done.status, 0, done.out + done.err)

    def test_a_skipped_write_fails(self) -> None:
        self.check_all_fail("skip-write", RESULTS)

    def test_twice_the_tolerance_fails(self) -> None:
        self.check_all_fail("noise", RESULTS)

    def test_a_write_beside_the_result_fails(self) -> None:
        for fault in ("write-before", "write-after"):
            self.check_all_fail(fault, RESULTS)
        self.check_all_fail("write-between", ("add/f32", "matmul/f32", "matmul/q4_0"))

    def test_a_write_to_an_input_fails(self) -> None:
        self.check_all_fail("write-input", ("add/f32", "silu_mul/f32", "matmul/f32", "rope/interleaved"))

    def test_the_guard_names_the_place(self) -> None:
        done = run(CPU, "--only", "add/f32", fault="write-after")
        self.assertIn("a byte that is not the op's was written", done.case("add/f32")["message"])

    def test_a_leak_fails_the_soak(self) -> None:
        for fault, where in (("leak", "memory taken from the host grew"), ("leak-driver", "resident memory grew")):
            if fault == "leak-driver" and SANITIZED:
                continue  # a sanitizer keeps what was freed: the kit then leaves growth to it
            with self.subTest(fault=fault):
                done = run(CPU, "--only", "soak/*", fault=fault)
                self.assertEqual(done.status, 1, done.out)
                self.assertIn(where, done.case("soak/cycles")["message"])

    def test_a_lying_op_query_fails(self) -> None:
        done = run(CPU, "--only", "rms_norm/f16", fault="lie")
        self.assertEqual(done.status, 1, done.out)
        self.assertIn("op_query says yes", done.case("rms_norm/f16")["message"])

    def test_ops_that_do_nothing_fail(self) -> None:
        done = run(NULL, "--only", "add/*")
        self.assertEqual(done.status, 1, done.out)
        self.assertEqual(done.report["badges"], [])

    def test_corrupted_kv_fails(self) -> None:
        name = "kv_gather/f16/f16_wire/preferred"
        self.check_all_fail("corrupt-kv", (name,))


if __name__ == "__main__":
    unittest.main()
