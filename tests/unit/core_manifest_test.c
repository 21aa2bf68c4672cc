/* Manifests: what is accepted, and that each refusal names file, line and key. */
#include "core_harness.h"

#include "core/manifest.h"

#define GOOD                                                                                       \
  "# a comment\n"                                                                                  \
  "name = my-chip_2\n"                                                                             \
  "\n"                                                                                             \
  "  library=consort-my-chip.so  \r\n"                                                             \
  "abi_min = 0\nabi_max = 3\narchitecture = x86_64"

static cs_status parse(const char *text, cs_manifest *out, cs_error *error) {
  return cs_manifest_parse(text, strlen(text), "/plugins/my.plugin", NULL, out, error);
}

static void a_whole_manifest_is_read(void **state) {
  (void)state;
  cs_manifest manifest;
  assert_ok(parse(GOOD "\nfuture_key = 7\n", &manifest, error));
  assert_string_equal(manifest.name, "my-chip_2");
  assert_string_equal(manifest.library, "/plugins/consort-my-chip.so");
  assert_int_equal(manifest.abi_min, 0);
  assert_int_equal(manifest.abi_max, 3);
  assert_string_equal(manifest.architecture, "x86_64");
  cs_manifest_finish(&manifest);
}

static void the_driver_s_variable_may_be_named(void **state) {
  (void)state;
  cs_manifest manifest;
  assert_ok(parse(GOOD "\n", &manifest, error));
  assert_string_equal(manifest.visible_devices, "");
  cs_manifest_finish(&manifest);
  assert_ok(parse(GOOD "\nvisible_devices = MY_CHIP_1\n", &manifest, error));
  assert_string_equal(manifest.visible_devices, "MY_CHIP_1");
  cs_manifest_finish(&manifest);
  assert_fails(CS_CORRUPT, ":1: visible_devices may hold",
               parse("visible_devices = my-chip\n", &manifest, error));
  assert_fails(CS_CORRUPT, ":1: visible_devices may hold",
               parse("visible_devices = 1X\n", &manifest, error));
  assert_fails(CS_CORRUPT, ":1: visible_devices may hold",
               parse("visible_devices =\n", &manifest, error));
  char text[128];
  snprintf(text, sizeof text, "visible_devices = %0*d", 64, 0);
  memset(text + 18, 'A', 64);
  assert_fails(CS_CORRUPT, ":1: visible_devices is too long", parse(text, &manifest, error));
}

static void each_missing_key_is_named(void **state) {
  (void)state;
  const char *const lines[] = {"name = a\n", "library = a.so\n", "abi_min = 0\n", "abi_max = 0\n",
                               "architecture = x86_64\n"};
  const char *const keys[] = {"name", "library", "abi_min", "abi_max", "architecture"};
  for (size_t missing = 0; missing < 5; missing++) {
    char text[256] = "";
    for (size_t i = 0; i < 5; i++) {
      if (i != missing) strcat(text, lines[i]);
    }
    char expected[64];
    snprintf(expected, sizeof expected, "my.plugin: %s is missing", keys[missing]);
    cs_manifest manifest;
    assert_fails(CS_CORRUPT, expected, parse(text, &manifest, error));
  }
}

static void bad_lines_are_named(void **state) {
  (void)state;
  cs_manifest m;
  assert_fails(CS_CORRUPT, "my.plugin:2: not of the form", parse("#\nnonsense\n", &m, error));
  assert_fails(CS_CORRUPT, ":1: name may hold", parse("name = Upper\n", &m, error));
  assert_fails(CS_CORRUPT, ":1: name may hold", parse("name =\n", &m, error));
  assert_fails(CS_CORRUPT, ":2: name is given twice", parse("name=a\nname=b\n", &m, error));
  assert_fails(CS_CORRUPT, "abi_min is not a version", parse("abi_min = -1\n", &m, error));
  assert_fails(CS_CORRUPT, "abi_max is not a version", parse("abi_max = 1x\n", &m, error));
  assert_fails(CS_CORRUPT, "abi_max is not a version", parse("abi_max = 4294967296\n", &m, error));
  assert_fails(CS_CORRUPT, "library is empty", parse("library = \n", &m, error));
  assert_fails(CS_CORRUPT, "architecture is empty", parse("architecture =", &m, error));
  assert_fails(CS_CORRUPT, "abi_min is above",
               parse("name=a\nlibrary=a\nabi_min=2\nabi_max=1\narchitecture=x", &m, error));
  assert_fails(CS_CORRUPT, "name is too long",
               parse("name = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", &m, error));
  assert_fails(CS_CORRUPT, "not text", cs_manifest_parse("name\0= a\n", 9, "p", NULL, &m, error));
}

static void a_line_without_end_is_refused(void **state) {
  (void)state;
  char *text = malloc(10000);
  memset(text, 'a', 10000);
  cs_manifest m;
  assert_fails(CS_CORRUPT, "too long", cs_manifest_parse(text, 10000, "p", NULL, &m, error));
  free(text);
}

static void a_missing_file_is_named(void **state) {
  (void)state;
  cs_manifest m;
  assert_fails(CS_IO, "/nowhere/x.plugin", cs_manifest_read("/nowhere/x.plugin", NULL, &m, error));
}

static void an_absolute_library_stays(void **state) {
  (void)state;
  cs_manifest m;
  assert_ok(parse("name=a\nlibrary=/opt/a.so\nabi_min=0\nabi_max=1\narchitecture=x\n", &m, error));
  assert_string_equal(m.library, "/opt/a.so");
  cs_manifest_finish(&m);
}

static void every_cut_of_a_manifest_is_survived(void **state) {
  (void)state;
  for (size_t n = 0; n < sizeof GOOD; n++) {
    cs_manifest m;
    if (cs_manifest_parse(GOOD, n, "p", NULL, &m, NULL) == CS_OK) cs_manifest_finish(&m);
  }
}

static void an_unknown_abi_or_architecture_is_refused(void **state) {
  (void)state;
  cs_manifest m = {.abi_min = 7, .abi_max = 9, .architecture = "x86_64"};
  assert_fails(CS_UNSUPPORTED, "ABI 7 to 9", cs_manifest_check_host(&m, error));
  m = (cs_manifest){.architecture = "pdp11"};
  assert_fails(CS_UNSUPPORTED, "built for pdp11", cs_manifest_check_host(&m, error));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_whole_manifest_is_read),
      cmocka_unit_test(the_driver_s_variable_may_be_named),
      cmocka_unit_test(each_missing_key_is_named),
      cmocka_unit_test(bad_lines_are_named),
      cmocka_unit_test(a_line_without_end_is_refused),
      cmocka_unit_test(a_missing_file_is_named),
      cmocka_unit_test(an_absolute_library_stays),
      cmocka_unit_test(every_cut_of_a_manifest_is_survived),
      cmocka_unit_test(an_unknown_abi_or_architecture_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
