"""The cases of the optional tables pass a plugin that has them right, and fail it for each way of having them wrong."""

import unittest

from kit import NULL, TABLES, run

WRONG = {
    "external/round_trip": ("import-copy",),
    "external/second_device": ("import-copy",),
    "external/descriptors": ("export-leak",),
    "external/bad_handles": ("import-narrow", "import-any-size", "export-any-type"),
    "peer/random": ("peer-answer", "peer-short", "peer-long", "peer-at-once"),
    "peer/large": ("peer-short",),
    "peer/after_failure": ("peer-at-once",),
    "profile/records": ("profile-op", "profile-backwards", "profile-overlap", "profile-slow", "profile-nothing",
                        "profile-lost", "profile-overrun", "profile-kept"),
    "profile/switching": ("profile-always", "profile-lost"),
    "weights_map/f32/round_trip": ("map-layout", "save-long", "save-changed", "map-write"),
    "weights_map/f32/bad_images": ("map-any-layout", "map-any-bytes", "map-half"),
}


class OptionalTables(unittest.TestCase):

    def test_a_plugin_that_has_them_right_passes(self) -> None:
        done = run(TABLES, "--require", "Core")
        self.assertEqual(done.status, 0, done.out + done.err)
        for name in WRONG:
            self.assertEqual(done.case(name)["status"], "passed", done.out)

    def test_each_way_of_having_them_wrong_fails(self) -> None:
        for name, ways in WRONG.items():
            for way in ways:
                with self.subTest(case=name, way=way):
                    done = run(TABLES, "--only", name, "--option", f"break={way}")
                    self.assertEqual(done.status, 1, done.out)
                    self.assertEqual(done.case(name)["status"], "failed", done.out)

    def test_an_absent_table_is_counted_and_named(self) -> None:
        for folder, table in (("external", "external memory"), ("peer", "peer"), ("profile", "profile"),
                              ("weights_map", "weights map")):
            done = run(NULL, "--only", f"{folder}/*")
            cases = done.report["cases"]
            self.assertGreater(len(cases), 0)
            self.assertEqual(done.report["tests"]["unsupported"], len(cases), done.out)
            for case in cases:
                self.assertEqual(case["message"], f"the plugin has no {table} table")


if __name__ == "__main__":
    unittest.main()
