/* Finding plugins: folders, precedence, and one line for each that cannot start. */
#include "core_harness.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/plugin.h"

typedef struct expectation {
  const char *name;
  const char *failure; /* part of it */
} expectation;

static const expectation faulty[] = {
    {"abi-huge", "picked plugin ABI 4000000000"},
    {"bad-align", NULL}, /* starts; its devices do not open */
    {"no-devices", "has no device"},
    {"no-driver", "no driver for a fake"},
    {"no-execution", "has neither the eager nor the program table"},
    {"no-streams", "table stream lacks stream_create"},
    {"null-entry", "table stream lacks stream_fill"},
    {"other-name", "calls itself \"somebody-else\""},
    {"query-refuses", "refuses plugin ABI 0 to 0"},
    {"silent", "does not start (failed)"},
    {"unknown-tail", "table capability has entries that this host does not know"},
};

/* The plugin of that name; its name is NULL when there is none. */
static cs_plugin_status find(cs_runtime *runtime, const char *name) {
  cs_plugin_status plugin = {0};
  for (uint32_t i = 0; i < cs_runtime_n_plugins(runtime); i++) {
    assert_ok(cs_runtime_plugin(runtime, i, &plugin, error));
    if (strcmp(plugin.name, name) == 0) return plugin;
  }
  return (cs_plugin_status){0};
}

static void each_faulty_plugin_says_why_in_one_line(void **state) {
  (void)state;
  cs_runtime *runtime = harness_runtime("faulty");
  const size_t n = sizeof faulty / sizeof faulty[0];
  assert_int_equal(cs_runtime_n_plugins(runtime), n);
  for (uint32_t i = 0; i < n; i++) {
    cs_plugin_status plugin;
    assert_ok(cs_runtime_plugin(runtime, i, &plugin, error));
    assert_string_equal(plugin.name, faulty[i].name);
    if (!faulty[i].failure) {
      assert_null(plugin.failure);
      continue;
    }
    if (!plugin.failure || !strstr(plugin.failure, faulty[i].failure)) {
      fail_msg("%s: \"%s\" instead of \"%s\"", plugin.name, plugin.failure, faulty[i].failure);
    }
    assert_null(strchr(plugin.failure, '\n'));
    assert_int_equal(plugin.n_devices, 0);
  }
  cs_runtime_release(runtime);
}

static void properties_against_the_contract_are_refused(void **state) {
  (void)state;
  cs_runtime *runtime = harness_runtime("faulty");
  cs_device_properties properties;
  cs_device *device = NULL;
  assert_fails(CS_CORRUPT, "bad-align:0: reports a tensor_align of 3",
               cs_runtime_device_info(runtime, 1, 0, &properties, error));
  assert_fails(CS_CORRUPT, "tensor_align of 3",
               cs_device_open(runtime, "bad-align:1", &device, error));
  assert_null(device);
  cs_runtime_release(runtime);
}

static void good_plugins_start_in_order_of_name(void **state) {
  (void)state;
  cs_runtime *runtime = harness_runtime("good");
  const char *const names[] = {"fake", "recorded", "twin", "zero-tail"};
  assert_int_equal(cs_runtime_n_plugins(runtime), 4);
  for (uint32_t i = 0; i < 4; i++) {
    cs_plugin_status plugin;
    assert_ok(cs_runtime_plugin(runtime, i, &plugin, error));
    assert_string_equal(plugin.name, names[i]);
    assert_null(plugin.failure);
    assert_string_equal(plugin.version, "1.0");
    assert_string_equal(plugin.vendor, "tests");
    assert_int_equal(plugin.n_devices, 2);
  }
  cs_plugin_status plugin;
  assert_fails(CS_OUT_OF_RANGE, "no plugin 4", cs_runtime_plugin(runtime, 4, &plugin, error));
  cs_device_properties properties;
  assert_ok(cs_runtime_device_info(runtime, 0, 1, &properties, error));
  assert_string_equal(properties.uuid, "FAKE-0001-bb");
  assert_fails(CS_NOT_FOUND, "fake:2", cs_runtime_device_info(runtime, 0, 2, &properties, error));
  cs_runtime_release(runtime);
}

/* ---- folders made for one test ---- */

typedef struct folder {
  char path[64];
} folder;

static void make_folder(folder *f) {
  strcpy(f->path, "/tmp/core_runtime_test.XXXXXX");
  assert_non_null(mkdtemp(f->path));
}

static void write_file(const folder *f, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", f->path, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void remove_folder(const folder *f) {
  DIR *dir = opendir(f->path);
  for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", f->path, entry->d_name);
    if (entry->d_name[0] != '.') remove(path);
  }
  closedir(dir);
  rmdir(f->path);
}

static void write_manifest(const folder *f, const char *file, const char *name, const char *library,
                           const char *abi_min, const char *architecture) {
  char text[4096];
  snprintf(text, sizeof text,
           "name = %s\nlibrary = %s\nabi_min = %s\nabi_max = 99\narchitecture = %s\n", name,
           library, abi_min, architecture);
  write_file(f, file, text);
}

#if defined(__x86_64__)
#define HERE "x86_64"
#else
#define HERE "aarch64"
#endif

static void libraries_that_cannot_be_loaded_are_told(void **state) {
  (void)state;
  folder f;
  make_folder(&f);
  write_manifest(&f, "a.plugin", "missing", "nowhere.so", "0", HERE);
  write_manifest(&f, "b.plugin", "corrupt", "corrupt.so", "0", HERE);
  write_file(&f, "corrupt.so", "this is no library");
  write_manifest(&f, "c.plugin", "foreign", "corrupt.so", "0", "pdp11");
  write_manifest(&f, "d.plugin", "future", "corrupt.so", "7", HERE);
  write_file(&f, "broken.plugin", "name = broken\nlibrary\n");
  write_file(&f, "note.txt", "no manifest");
  cs_runtime *runtime = NULL;
  const cs_runtime_options options = {.system_dir = f.path,
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .log_sink = harness_drop_line};
  assert_ok(cs_runtime_create(&options, &runtime, error));
  assert_int_equal(cs_runtime_n_plugins(runtime), 5);
  assert_non_null(strstr(find(runtime, "missing").failure, "nowhere.so is missing"));
  assert_non_null(strstr(find(runtime, "corrupt").failure, "corrupt.so"));
  assert_non_null(strstr(find(runtime, "foreign").failure, "built for pdp11"));
  assert_non_null(strstr(find(runtime, "future").failure, "needs plugin ABI 7 to 99"));
  assert_non_null(strstr(find(runtime, "broken").failure, "broken.plugin:2"));
  cs_device *device = NULL;
  assert_fails(CS_NOT_FOUND, "no device \"future:0\": future: needs plugin ABI 7",
               cs_device_open(runtime, "future:0", &device, error));
  cs_runtime_release(runtime);
  remove_folder(&f);
}

static void later_folders_override_earlier_ones(void **state) {
  (void)state;
  folder system, user, first, second;
  make_folder(&system);
  make_folder(&user);
  make_folder(&first);
  make_folder(&second);
  char path[256];
  snprintf(path, sizeof path, "%s/consort", user.path);
  mkdir(path, 0700);
  snprintf(path, sizeof path, "%s/consort/plugins", user.path);
  mkdir(path, 0700);
  folder user_plugins;
  snprintf(user_plugins.path, sizeof user_plugins.path, "%s/consort/plugins", user.path);
  write_manifest(&system, "a.plugin", "one", "system.so", "0", HERE);
  write_manifest(&system, "b.plugin", "two", "system.so", "0", HERE);
  write_manifest(&system, "c.plugin", "three", "system.so", "0", HERE);
  write_manifest(&user_plugins, "a.plugin", "two", "user.so", "0", HERE);
  write_manifest(&user_plugins, "b.plugin", "three", "user.so", "0", HERE);
  write_manifest(&first, "a.plugin", "three", "first.so", "0", HERE);
  write_manifest(&second, "a.plugin", "four", "second.so", "0", HERE);
  char list[256];
  snprintf(list, sizeof list, "%s::%s", first.path, second.path);
  setenv("CONSORT_PLUGIN_PATH", list, 1);
  setenv("XDG_DATA_HOME", user.path, 1);
  cs_runtime *runtime = NULL;
  const cs_runtime_options options = {.system_dir = system.path, .log_sink = harness_drop_line};
  assert_ok(cs_runtime_create(&options, &runtime, error));
  assert_int_equal(cs_runtime_n_plugins(runtime), 4);
  assert_non_null(strstr(find(runtime, "one").library_path, "system.so"));
  assert_non_null(strstr(find(runtime, "two").library_path, "user.so"));
  assert_non_null(strstr(find(runtime, "three").library_path, "first.so"));
  assert_non_null(strstr(find(runtime, "four").library_path, "second.so"));
  cs_runtime_release(runtime);
  unsetenv("CONSORT_PLUGIN_PATH");
  unsetenv("XDG_DATA_HOME");
  remove_folder(&user_plugins);
  snprintf(path, sizeof path, "%s/consort", user.path);
  rmdir(path);
  remove_folder(&user);
  remove_folder(&system);
  remove_folder(&first);
  remove_folder(&second);
}

static void a_plugin_that_crashes_is_told_and_the_others_go_on(void **state) {
  (void)state;
  char crashing[512];
  snprintf(crashing, sizeof crashing, "%s/crashing", CORE_TEST_PLUGINS);
  char good[512];
  snprintf(good, sizeof good, "%s/good", CORE_TEST_PLUGINS);
  setenv("CONSORT_PLUGIN_PATH", good, 1);
  cs_runtime *runtime = NULL;
  const cs_runtime_options options = {
      .system_dir = crashing, .skip_user_dir = true, .probe = true, .log_sink = harness_drop_line};
  assert_ok(cs_runtime_create(&options, &runtime, error));
  unsetenv("CONSORT_PLUGIN_PATH");
  assert_string_equal(find(runtime, "crash-query").failure, "crashed with signal 11 when queried");
  assert_string_equal(find(runtime, "crash-start").failure, "crashed with signal 11 when started");
  assert_string_equal(find(runtime, "crash-end").failure, "crashed with signal 11 when ended");
  assert_string_equal(find(runtime, "abort-query").failure, "crashed with signal 6 when queried");
  assert_string_equal(find(runtime, "exit-start").failure,
                      "ended the process (status 3) when started");
  assert_null(find(runtime, "fake").failure);
  cs_runtime_release(runtime);
}

static void a_plugin_that_hangs_is_killed_at_the_deadline(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_plugin_probe(CORE_TEST_PROBE,
                                   CORE_TEST_PLUGINS "/hanging/consort-hang-start.so", 400, &error),
                   CS_TIMEOUT);
  assert_string_equal(error.message, "did not answer within 0.4 s when started");
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left behind */
}

static void a_missing_probe_is_told_in_one_line(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_plugin_probe("/nowhere/consort-probe", "x.so", 400, &error), CS_IO);
  assert_string_equal(error.message,
                      "cannot be probed: /nowhere/consort-probe: No such file or directory");
}

static void an_empty_or_missing_folder_is_no_failure(void **state) {
  (void)state;
  cs_runtime *runtime = NULL;
  const cs_runtime_options options = {.system_dir = "/nowhere/at/all",
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .log_sink = harness_drop_line};
  assert_ok(cs_runtime_create(&options, &runtime, error));
  assert_int_equal(cs_runtime_n_plugins(runtime), 0);
  cs_device *device = NULL;
  assert_fails(CS_NOT_FOUND, "no device \"cpu:0\": there is none",
               cs_device_open(runtime, "cpu:0", &device, error));
  cs_runtime_release(runtime);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_faulty_plugin_says_why_in_one_line),
      cmocka_unit_test(properties_against_the_contract_are_refused),
      cmocka_unit_test(good_plugins_start_in_order_of_name),
      cmocka_unit_test(libraries_that_cannot_be_loaded_are_told),
      cmocka_unit_test(later_folders_override_earlier_ones),
      cmocka_unit_test(a_plugin_that_crashes_is_told_and_the_others_go_on),
      cmocka_unit_test(a_plugin_that_hangs_is_killed_at_the_deadline),
      cmocka_unit_test(a_missing_probe_is_told_in_one_line),
      cmocka_unit_test(an_empty_or_missing_folder_is_no_failure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
