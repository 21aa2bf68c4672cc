/* The Level Zero plugin on two devices of the test driver, and what it says where something is
 * missing. The loader reads its environment once, so each test runs in a process of its own. */
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "sdk_host.h"

#define N_BYTES 100000
#define WAIT_US 60000000

typedef struct fixture {
  cs_plugin plugin;
  const cs_device_table *device_table;
  cs_plugin_instance *instance;
} fixture;

static cs_status load(fixture *f, cs_error *error) {
  char path[1024];
  snprintf(path, sizeof path, "%s/consort-level_zero.so", getenv("CONSORT_TEST_PLUGINS"));
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) _exit(2);
  cs_plugin_query_fn query = NULL;
  void *const symbol = dlsym(library, CS_PLUGIN_QUERY_SYMBOL);
  memcpy(&query, &symbol, sizeof query);
  *f = (fixture){.plugin = {.struct_size = sizeof f->plugin}};
  if (!query || query(&test_host, &f->plugin) != CS_OK) _exit(2);
  f->device_table = f->plugin.table(CS_TABLE_DEVICE, 0);
  return f->device_table->instance_create(&test_host, &f->instance, error);
}

static bool one_line_with(const cs_error *error, const char *words) {
  fprintf(stderr, "%s\n", error->message);
  return strstr(error->message, words) && !strchr(error->message, '\n');
}

/* ---- stories ---- */

static bool without_a_loader_one_line_says_so(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  return load(&f, &error) == CS_NOT_FOUND && !f.instance &&
         one_line_with(&error, "loader (libze_loader.so.1) is not installed");
}

static bool without_a_driver_one_line_says_so(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  return load(&f, &error) == CS_NOT_FOUND && !f.instance &&
         one_line_with(&error, "no Level Zero driver is installed");
}

static bool options_are_checked(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  if (load(&f, &error) != CS_OK) return false;
  const cs_option bad_key = {"speed", "high"}, bad_value = {"variant", "both"};
  const cs_option good = {"variant", "cpu"};
  cs_plugin_device *device = NULL;
  const bool key = f.device_table->device_open(f.instance, 0, &bad_key, 1, sizeof bad_key, &device,
                                               &error) == CS_INVALID_ARGUMENT;
  const bool value = f.device_table->device_open(f.instance, 0, &bad_value, 1, sizeof bad_value,
                                                 &device, &error) == CS_INVALID_ARGUMENT;
  if (f.device_table->device_open(f.instance, 0, &good, 1, sizeof good, &device, &error) != CS_OK)
    return false;
  cs_device_properties properties = {.struct_size = sizeof properties};
  f.device_table->device_properties(device, &properties, NULL);
  f.device_table->device_close(device);
  f.device_table->instance_destroy(f.instance);
  return key && value && strstr(properties.driver, "cpu kernels");
}

/* Fills memory of `from`, copies it to memory of `to`, and reads it there. */
static bool copy_between(const fixture *f, cs_plugin_device *from, cs_plugin_device *to) {
  const cs_memory_table *memory = f->plugin.table(CS_TABLE_MEMORY, 0);
  const cs_stream_table *stream = f->plugin.table(CS_TABLE_STREAM, 0);
  const cs_semaphore_table *semaphore = f->plugin.table(CS_TABLE_SEMAPHORE, 0);
  const cs_peer_table *peer = f->plugin.table(CS_TABLE_PEER, 0);
  static unsigned char sent[N_BYTES], received[N_BYTES];
  for (size_t i = 0; i < N_BYTES; i++)
    sent[i] = (unsigned char)(i * 7 + i / 251);
  cs_plugin_memory *a = NULL, *b = NULL;
  cs_plugin_stream *s = NULL, *t = NULL;
  cs_plugin_semaphore *done = NULL, *read = NULL;
  bool ok = memory->memory_allocate(from, N_BYTES, CS_MEMORY_DEVICE, &a, NULL) == CS_OK &&
            memory->memory_allocate(to, N_BYTES, CS_MEMORY_DEVICE, &b, NULL) == CS_OK &&
            stream->stream_create(from, &s, NULL) == CS_OK &&
            stream->stream_create(to, &t, NULL) == CS_OK &&
            semaphore->semaphore_create(from, 0, &done, NULL) == CS_OK &&
            semaphore->semaphore_create(to, 0, &read, NULL) == CS_OK;
  ok = ok && stream->stream_upload(s, a, 0, sent, N_BYTES, NULL) == CS_OK &&
       peer->stream_peer_copy(s, to, b, 64, a, 64, N_BYTES - 64, NULL) == CS_OK &&
       peer->stream_peer_copy(s, to, b, 0, a, 0, N_BYTES + 1, NULL) == CS_OUT_OF_RANGE &&
       stream->stream_signal(s, done, 1, NULL) == CS_OK &&
       semaphore->semaphore_wait(done, 1, WAIT_US, NULL) == CS_OK &&
       stream->stream_download(t, received, b, 0, N_BYTES, NULL) == CS_OK &&
       stream->stream_signal(t, read, 1, NULL) == CS_OK &&
       semaphore->semaphore_wait(read, 1, WAIT_US, NULL) == CS_OK &&
       memcmp(received + 64, sent + 64, N_BYTES - 64) == 0;
  stream->stream_destroy(s);
  stream->stream_destroy(t);
  semaphore->semaphore_destroy(done);
  semaphore->semaphore_destroy(read);
  memory->memory_free(from, a);
  memory->memory_free(to, b);
  return ok;
}

static bool memory_moves_between_peers(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  if (load(&f, &error) != CS_OK || f.device_table->device_count(f.instance) != 2) return false;
  const cs_peer_table *peer = f.plugin.table(CS_TABLE_PEER, 0);
  cs_plugin_device *first = NULL, *second = NULL;
  f.device_table->device_open(f.instance, 0, NULL, 0, 0, &first, &error);
  f.device_table->device_open(f.instance, 1, NULL, 0, 0, &second, &error);
  const bool ok = first && second && peer->peer_can_copy(second, first) == 1 &&
                  copy_between(&f, first, second) && copy_between(&f, second, first);
  f.device_table->device_close(second);
  f.device_table->device_close(first);
  f.device_table->instance_destroy(f.instance);
  return ok;
}

static bool two_devices_have_two_uuids(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  if (load(&f, &error) != CS_OK) return false;
  cs_device_properties a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
  f.device_table->device_info(f.instance, 0, &a, &error);
  f.device_table->device_info(f.instance, 1, &b, &error);
  const bool third = f.device_table->device_info(f.instance, 2, &b, &error) == CS_NOT_FOUND;
  f.device_table->instance_destroy(f.instance);
  return third && strlen(a.uuid) == 32 && strcmp(a.uuid, b.uuid) != 0 &&
         strcmp(a.memory_domain, b.memory_domain) != 0 && a.type == CS_DEVICE_TYPE_GPU;
}

static bool without_a_device_one_line_says_so(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  return load(&f, &error) == CS_NOT_FOUND && !f.instance &&
         one_line_with(&error, "the Level Zero driver has no device");
}

static bool without_peers_nothing_is_copied_between(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  setenv("ZE_TEST_DEVICES", "2", 1);
  if (load(&f, &error) != CS_OK) return false;
  const cs_peer_table *peer = f.plugin.table(CS_TABLE_PEER, 0);
  cs_plugin_device *first = NULL, *second = NULL;
  f.device_table->device_open(f.instance, 0, NULL, 0, 0, &first, &error);
  f.device_table->device_open(f.instance, 1, NULL, 0, 0, &second, &error);
  const bool ok = peer->peer_can_copy(second, first) == 0 && !copy_between(&f, first, second) &&
                  copy_between(&f, second, second);
  f.device_table->device_close(second);
  f.device_table->device_close(first);
  f.device_table->instance_destroy(f.instance);
  return ok;
}

/* Copies that the driver has run on the compute group and on the copy group. */
static void count_copies(uint64_t out[2]) {
  void *driver = dlopen(getenv("ZE_ENABLE_ALT_DRIVERS"), RTLD_NOW | RTLD_NOLOAD);
  uint64_t (*count)(uint32_t ordinal) = NULL;
  void *const symbol = driver ? dlsym(driver, "ze_cpu_test_copies") : NULL;
  memcpy(&count, &symbol, sizeof count);
  for (uint32_t i = 0; i < 2; i++)
    out[i] = count ? count(i) : 0;
  if (driver) dlclose(driver);
}

/* Copies within a device, and which engine ran them: bit 0 the compute group, bit 1 the copy
 * group; 4 when they went wrong. */
static int engines_that_copy(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_device *device = NULL;
  uint64_t copies[2];
  if (load(&f, &error) != CS_OK) return 4;
  f.device_table->device_open(f.instance, 0, NULL, 0, 0, &device, &error);
  const bool ok = device && copy_between(&f, device, device);
  count_copies(copies);
  f.device_table->device_close(device);
  f.device_table->instance_destroy(f.instance);
  return ok ? (copies[0] > 0) | (copies[1] > 0) << 1 : 4;
}

static bool a_copy_engine_takes_all_copies(void) {
  return engines_that_copy() == 2;
}

static bool without_a_copy_engine_the_others_copy(void) {
  return engines_that_copy() == 1;
}

static bool shared_memory_is_the_hosts_too(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  if (load(&f, &error) != CS_OK) return false;
  const cs_memory_table *memory = f.plugin.table(CS_TABLE_MEMORY, 0);
  const cs_option options[2] = {{"memory", "shared"}, {"memory", "device"}};
  bool ok = true;
  for (uint32_t i = 0; i < 2 && ok; i++) {
    cs_plugin_device *device = NULL;
    cs_plugin_memory *m = NULL;
    cs_device_properties properties = {.struct_size = sizeof properties};
    ok = f.device_table->device_open(f.instance, 0, &options[i], 1, sizeof *options, &device,
                                     &error) == CS_OK &&
         memory->memory_allocate(device, 64, CS_MEMORY_DEVICE, &m, &error) == CS_OK;
    if (!ok) break;
    f.device_table->device_properties(device, &properties, NULL);
    unsigned char *pointer = memory->memory_host_pointer(device, m);
    if (pointer) memset(pointer, 1, 64); /* would end the process in device memory */
    ok = (pointer != NULL) == (i == 0) &&
         (properties.flags & CS_DEVICE_HOST_RESIDENT) == (i == 0 ? CS_DEVICE_HOST_RESIDENT : 0u) &&
         copy_between(&f, device, device);
    memory->memory_free(device, m);
    f.device_table->device_close(device);
  }
  f.device_table->instance_destroy(f.instance);
  return ok;
}

/* ---- figures ---- */

static char logged[1024];

static void remember_log(void *context, uint32_t level, const char *text) {
  (void)context;
  (void)level;
  strncat(logged, text, sizeof logged - strlen(logged) - 1);
}

/* Opens and closes a device; its properties in between. */
static bool open_and_close(cs_device_properties *out) {
  cs_host host = test_host;
  host.log = remember_log;
  fixture f;
  cs_error error = CS_ERROR_INIT;
  if (load(&f, &error) != CS_OK) return false;
  cs_plugin_instance *instance = NULL;
  cs_plugin_device *device = NULL;
  bool ok = f.device_table->instance_create(&host, &instance, &error) == CS_OK &&
            f.device_table->device_open(instance, 0, NULL, 0, 0, &device, &error) == CS_OK;
  *out = (cs_device_properties){.struct_size = sizeof *out};
  ok = ok && f.device_table->device_properties(device, out, &error) == CS_OK;
  f.device_table->device_close(device);
  f.device_table->instance_destroy(instance);
  f.device_table->instance_destroy(f.instance);
  fprintf(stderr, "%s\n", logged);
  return ok;
}

static bool sysmans_figures_are_told(void) {
  cs_device_properties properties;
  return open_and_close(&properties) &&
         properties.memory_free_bytes == properties.memory_bytes / 4 && strstr(logged, "47.5 C") &&
         strstr(logged, "GiB free") && strstr(logged, "12.5 W on average");
}

static bool without_sysman_the_absence_is_told(void) {
  cs_device_properties properties;
  return open_and_close(&properties) && properties.memory_free_bytes == properties.memory_bytes &&
         strstr(logged, "sysman: no figures");
}

#define N_THREADS 4
#define N_STREAMS 6

typedef struct churn {
  const fixture *f;
  cs_plugin_device *device;
  bool ok;
} churn;

/* Makes streams, uses each for a copy, and destroys it. */
static void *make_and_destroy_streams(void *argument) {
  churn *c = argument;
  const cs_memory_table *memory = c->f->plugin.table(CS_TABLE_MEMORY, 0);
  const cs_stream_table *stream = c->f->plugin.table(CS_TABLE_STREAM, 0);
  const cs_semaphore_table *semaphore = c->f->plugin.table(CS_TABLE_SEMAPHORE, 0);
  static const unsigned char sent[64] = {1, 2, 3};
  unsigned char received[64];
  c->ok = true;
  for (int i = 0; i < N_STREAMS && c->ok; i++) {
    cs_plugin_memory *m = NULL;
    cs_plugin_stream *s = NULL;
    cs_plugin_semaphore *done = NULL;
    memset(received, 0, sizeof received);
    c->ok = memory->memory_allocate(c->device, sizeof sent, CS_MEMORY_DEVICE, &m, NULL) == CS_OK &&
            stream->stream_create(c->device, &s, NULL) == CS_OK &&
            semaphore->semaphore_create(c->device, 0, &done, NULL) == CS_OK &&
            stream->stream_upload(s, m, 0, sent, sizeof sent, NULL) == CS_OK &&
            stream->stream_download(s, received, m, 0, sizeof sent, NULL) == CS_OK &&
            stream->stream_signal(s, done, 1, NULL) == CS_OK &&
            semaphore->semaphore_wait(done, 1, WAIT_US, NULL) == CS_OK &&
            memcmp(sent, received, sizeof sent) == 0;
    stream->stream_destroy(s);
    semaphore->semaphore_destroy(done);
    memory->memory_free(c->device, m);
  }
  return NULL;
}

/* The loader in intercept mode loses a handle that is created while its address is destroyed. */
static bool threads_create_while_others_destroy(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_device *device = NULL;
  setenv("ZE_TEST_REUSE", "1", 1);
  if (load(&f, &error) != CS_OK) return false;
  if (f.device_table->device_open(f.instance, 0, NULL, 0, 0, &device, &error) != CS_OK)
    return false;
  pthread_t threads[N_THREADS];
  churn churns[N_THREADS];
  bool ok = true;
  for (int i = 0; i < N_THREADS; i++) {
    churns[i] = (churn){.f = &f, .device = device};
    pthread_create(&threads[i], NULL, make_and_destroy_streams, &churns[i]);
  }
  for (int i = 0; i < N_THREADS; i++) {
    pthread_join(threads[i], NULL);
    ok = ok && churns[i].ok;
  }
  f.device_table->device_close(device);
  f.device_table->instance_destroy(f.instance);
  return ok;
}

static bool one_instance_outlives_another(void) {
  fixture f;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_instance *other = NULL;
  cs_plugin_device *device = NULL;
  if (load(&f, &error) != CS_OK) return false;
  if (f.device_table->instance_create(&test_host, &other, &error) != CS_OK) return false;
  f.device_table->instance_destroy(other);
  const bool ok =
      f.device_table->device_open(f.instance, 0, NULL, 0, 0, &device, &error) == CS_OK &&
      copy_between(&f, device, device);
  f.device_table->device_close(device);
  f.device_table->instance_destroy(f.instance);
  return ok;
}

/* ---- running them ---- */

static void expect(bool (*story)(void), const char *variable, const char *value) {
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    setenv(variable, value, 1);
    _exit(story() ? 0 : 1);
  }
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void no_driver(void **state) {
  (void)state;
  expect(without_a_driver_one_line_says_so, "ZE_ENABLE_ALT_DRIVERS", "/nonexistent/driver.so");
  expect(without_a_device_one_line_says_so, "ZE_TEST_DEVICES", "0");
}

/* The search path is read when a program starts: the test runs itself again beside a broken loader.
 */
static void no_loader(void **state) {
  (void)state;
  char folder[] = "/tmp/consort-no-loader-XXXXXX", file[64], self[1024];
  assert_non_null(mkdtemp(folder));
  snprintf(file, sizeof file, "%s/libze_loader.so.1", folder);
  fclose(fopen(file, "w"));
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  assert_true(n > 0);
  self[n] = '\0';
  const pid_t child = fork();
  if (child == 0) {
    setenv("LD_LIBRARY_PATH", folder, 1);
    execl(self, self, "no-loader", (char *)NULL);
    _exit(2);
  }
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  unlink(file);
  rmdir(folder);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void devices(void **state) {
  (void)state;
  expect(options_are_checked, "ZE_TEST_DEVICES", "1");
  expect(two_devices_have_two_uuids, "ZE_TEST_DEVICES", "2");
  expect(memory_moves_between_peers, "ZE_TEST_DEVICES", "2");
  expect(without_peers_nothing_is_copied_between, "ZE_TEST_PEERS", "0");
  expect(a_copy_engine_takes_all_copies, "ZE_TEST_COPY_ENGINE", "1");
  expect(without_a_copy_engine_the_others_copy, "ZE_TEST_COPY_ENGINE", "0");
  expect(shared_memory_is_the_hosts_too, "ZE_TEST_DEVICES", "1");
}

static void figures(void **state) {
  (void)state;
  expect(sysmans_figures_are_told, "ZES_ENABLE_SYSMAN", "1");
  expect(without_sysman_the_absence_is_told, "ZES_ENABLE_SYSMAN", "0");
}

static void intercepted(void **state) {
  (void)state;
  expect(one_instance_outlives_another, "ZE_ENABLE_LOADER_INTERCEPT", "1");
  expect(threads_create_while_others_destroy, "ZE_ENABLE_LOADER_INTERCEPT", "1");
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "no-loader") == 0)
    return without_a_loader_one_line_says_so() ? 0 : 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_driver), cmocka_unit_test(no_loader),
                                     cmocka_unit_test(devices), cmocka_unit_test(figures),
                                     cmocka_unit_test(intercepted)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
