/* Packed weights on disk: the same logits from a mapped file as from weights packed anew, and any
 * file that is not right is told in a line and replaced. */
#include "scheduler_harness.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_TOKENS 24
#define N_LOGITS (N_TOKENS * 1024)

typedef struct file_content {
  unsigned char *bytes;
  size_t n;
} file_content;

static consort_runtime *runtime;
static consort_model *model;
static char folder[64];
static char lines[4096]; /* of the log since the last start */
static float expected[N_LOGITS];

static void keep_line(void *user, uint32_t level, const char *line) {
  (void)user;
  const size_t used = strlen(lines);
  if (strncmp(line, "pack cache", 10) == 0)
    snprintf(lines + used, sizeof lines - used, "%u %s\n", level, line);
}

/* A session of the model with its weights below `where`, asked for logits. */
static void expect_same_logits(consort_model *of, const char *device, const char *where,
                               const float *wanted, float *given) {
  cs_error error = CS_ERROR_INIT;
  int32_t tokens[N_TOKENS];
  static float logits[N_LOGITS];
  consort_session_options options = harness_options(device, device);
  options.pack_cache = where;
  options.fallback = CONSORT_FALLBACK_ALLOW;
  lines[0] = '\0';
  consort_session *const session = harness_session(runtime, of, &options, NULL);
  harness_tokens(tokens, N_TOKENS, 3);
  harness_expect_ok(consort_logits(session, tokens, N_TOKENS, 0, logits, &error), &error);
  consort_session_destroy(session);
  if (wanted) assert_memory_equal(logits, wanted, sizeof logits);
  if (given) memcpy(given, logits, sizeof logits);
}

static void start(const char *line) {
  expect_same_logits(model, "cpu:0", folder, expected, NULL);
  if (!strstr(lines, line)) fail_msg("no line with '%s' but:\n%s", line, lines);
}

/* ---- files ---- */

/* The one file of the folder; fails when there is another. */
static void find_file(char path[PATH_MAX]) {
  int n = 0;
  DIR *const listing = opendir(folder);
  assert_non_null(listing);
  for (struct dirent *at; (at = readdir(listing));) {
    if (at->d_name[0] == '.') continue;
    snprintf(path, PATH_MAX, "%s/%s", folder, at->d_name);
    n++;
  }
  closedir(listing);
  assert_int_equal(n, 1);
}

static void forget_file(void) {
  char path[PATH_MAX];
  find_file(path);
  assert_int_equal(unlink(path), 0);
}

static file_content read_file(void) {
  char path[PATH_MAX];
  struct stat found;
  find_file(path);
  FILE *const file = fopen(path, "rb");
  assert_non_null(file);
  assert_int_equal(fstat(fileno(file), &found), 0);
  file_content content = {.bytes = malloc((size_t)found.st_size), .n = (size_t)found.st_size};
  assert_int_equal(fread(content.bytes, 1, content.n, file), content.n);
  fclose(file);
  return content;
}

static void write_file(const unsigned char *bytes, size_t n) {
  char path[PATH_MAX];
  find_file(path);
  FILE *const file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  assert_int_equal(fclose(file), 0);
}

static void expect_file(const file_content *content) {
  const file_content now = read_file();
  assert_int_equal(now.n, content->n);
  assert_memory_equal(now.bytes, content->bytes, now.n);
  free(now.bytes);
}

/* Whether the process has a mapping of a file in the folder, and that read only. */
static bool is_mapped(void) {
  char line[2 * PATH_MAX];
  bool found = false;
  FILE *const maps = fopen("/proc/self/maps", "r");
  while (fgets(line, sizeof line, maps))
    if (strstr(line, folder)) {
      assert_non_null(strstr(line, " r--p "));
      found = true;
    }
  fclose(maps);
  return found;
}

/* ---- life ---- */

static int open_all(void **state) {
  (void)state;
  char plugins[PATH_MAX];
  cs_error error = CS_ERROR_INIT;
  const consort_runtime_options options = {
      .struct_size = sizeof options, .log_level = 2, .log = keep_line};
  snprintf(plugins, sizeof plugins, "%s:%s", getenv("CONSORT_TEST_PLUGINS"), NPU_PLUGINS);
  setenv("CONSORT_PLUGIN_PATH", plugins, 1);
  strcpy(folder, "/tmp/consort-pack-XXXXXX");
  assert_non_null(mkdtemp(folder));
  strcat(folder, "/packed");
  harness_expect_ok(consort_runtime_create(&options, &runtime, &error), &error);
  model = harness_tiny(runtime);
  expect_same_logits(model, "cpu:0", NULL, NULL, expected);
  assert_string_equal(lines, "");
  start("written");
  return 0;
}

static int close_all(void **state) {
  (void)state;
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  forget_file();
  assert_int_equal(rmdir(folder), 0);
  *strrchr(folder, '/') = '\0';
  return rmdir(folder);
}

/* ---- tests ---- */

static void a_second_start_uses_the_file_and_leaves_it_alone(void **state) {
  (void)state;
  char path[PATH_MAX];
  struct stat before, after;
  find_file(path);
  assert_int_equal(stat(path, &before), 0);
  start("cpu:0 uses");
  assert_null(strstr(lines, "written"));
  assert_int_equal(stat(path, &after), 0);
  assert_int_equal(before.st_ino, after.st_ino);
  assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
  assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
}

static void weights_are_read_from_the_mapping(void **state) {
  (void)state;
  consort_session_options options = harness_options("cpu:0", "cpu:0");
  options.pack_cache = folder;
  assert_false(is_mapped());
  consort_session *const session = harness_session(runtime, model, &options, NULL);
  assert_true(is_mapped());
  cs_weight_range ranges[64];
  const cs_engine *const engine = cs_worker_engine(session->decode);
  const size_t n = cs_weights_ranges(cs_engine_weights(engine), model->model,
                                     cs_engine_device(engine, 0), CS_USAGE_MATMUL, ranges, 64);
  assert_true(n > 0 && n <= 64);
  for (size_t i = 0; i < n; i++)
    assert_int_equal((uintptr_t)ranges[i].data % 4096, 0);
  consort_session_destroy(session);
  assert_false(is_mapped());
}

static void a_cut_or_longer_file_is_written_anew(void **state) {
  (void)state;
  const file_content whole = read_file();
  const size_t lengths[] = {0, 1, 47, 48, 60, 4095, whole.n / 2, whole.n - 1};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    write_file(whole.bytes, lengths[i]);
    start("1 pack cache");
    start("uses");
    expect_file(&whole);
  }
  unsigned char *const longer = calloc(1, whole.n + 1);
  memcpy(longer, whole.bytes, whole.n);
  write_file(longer, whole.n + 1);
  start("it is cut short");
  expect_file(&whole);
  free(longer);
  free(whole.bytes);
}

static void a_flipped_bit_is_noticed(void **state) {
  (void)state;
  const file_content whole = read_file();
  const struct {
    size_t at;
    const char *line;
  } places[] = {{0, "holds no packed weights"},
                {8, "another version"},
                {13, "its head"},
                {20, "its head"},
                {25, "its head"},
                {33, "its head"},
                {44, "its head"},
                {50, "its table"},
                {120, "its table"},
                {8192, "a weight does not match"},
                {whole.n / 2, "a weight does"},
                {whole.n - 1, "a weight does not match"}};
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    whole.bytes[places[i].at] ^= 4;
    write_file(whole.bytes, whole.n);
    whole.bytes[places[i].at] ^= 4;
    start(places[i].line);
    assert_null(strstr(strstr(lines, "1 pack cache") + 1, "1 pack cache")); /* one warning */
    expect_file(&whole);
  }
  free(whole.bytes);
}

static void a_file_of_another_model_or_layout_is_refused(void **state) {
  (void)state;
  const file_content own = read_file();
  static const char *const formats[] = {"f32", "q8_0"};
  for (size_t i = 0; i < 2; i++) { /* of the same shape: other numbers, then another layout */
    consort_model *other;
    cs_error error = CS_ERROR_INIT;
    harness_expect_ok(
        consort_model_open_shape(runtime, "llama-tiny", formats[i], 6, &other, &error), &error);
    forget_file();
    expect_same_logits(other, "cpu:0", folder, NULL, NULL);
    const file_content foreign = read_file();
    forget_file();
    start("written");
    write_file(foreign.bytes, foreign.n);
    start("it is of another model or layout");
    expect_file(&own);
    free(foreign.bytes);
    consort_model_close(other);
  }
  free(own.bytes);
}

static void what_cannot_be_written_is_gone_without(void **state) {
  (void)state;
  char below[PATH_MAX];
  find_file(below);
  strcat(below, "/packed");
  expect_same_logits(model, "cpu:0", below, expected, NULL);
  assert_non_null(strstr(lines, "1 pack cache"));
  forget_file();
  const struct rlimit small = {65536, RLIM_INFINITY}; /* stands for a full disk */
  struct rlimit usual;
  signal(SIGXFSZ, SIG_IGN);
  getrlimit(RLIMIT_FSIZE, &usual);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  start("not written: File too large");
  setrlimit(RLIMIT_FSIZE, &usual);
  start("written from"); /* and nothing else was left behind: find_file would tell */
  start("uses");
}

/* It reads Q8_0 only; what falls back to the host's cores has its file. */
static void a_device_without_the_table_goes_on_without(void **state) {
  (void)state;
  static float plain[N_LOGITS];
  char usual[sizeof folder];
  consort_model *blocks;
  cs_error error = CS_ERROR_INIT;
  harness_expect_ok(consort_model_open_shape(runtime, "llama-tiny", "q8_0", 5, &blocks, &error),
                    &error);
  strcpy(usual, folder);
  strcpy(strrchr(folder, '/'), "/npu");
  expect_same_logits(blocks, "npu-sim:0", NULL, NULL, plain);
  expect_same_logits(blocks, "npu-sim:0", folder, plain, NULL);
  assert_non_null(strstr(lines, "1 pack cache: not used: npu-sim:0 keeps no packed weights"));
  if (strstr(lines, "written from cpu")) forget_file();
  rmdir(folder);
  strcpy(folder, usual);
  consort_model_close(blocks);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_second_start_uses_the_file_and_leaves_it_alone),
      cmocka_unit_test(weights_are_read_from_the_mapping),
      cmocka_unit_test(a_cut_or_longer_file_is_written_anew),
      cmocka_unit_test(a_flipped_bit_is_noticed),
      cmocka_unit_test(a_file_of_another_model_or_layout_is_refused),
      cmocka_unit_test(what_cannot_be_written_is_gone_without),
      cmocka_unit_test(a_device_without_the_table_goes_on_without),
  };
  return cmocka_run_group_tests(tests, open_all, close_all);
}
