/* Starting the plugin where it cannot start: one line that says why.
 *
 *   cuda_start_test PLUGIN.so WORDS   the line that instance_create fails with holds WORDS
 *
 * The cases differ in which libcuda.so.1 is found and what it answers, so each is a process; the
 * list is tests/lists/cuda.cmake. "-" for WORDS: the plugin starts. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consort/plugin.h"
#include "sdk_host.h"

static int fail(const char *what, const char *detail) {
  fprintf(stderr, "%s: %s\n", what, detail);
  return 1;
}

static int check(const cs_device_table *table, const char *words) {
  cs_plugin_instance *instance = NULL;
  cs_error error = CS_ERROR_INIT;
  const cs_status status = table->instance_create(&test_host, &instance, &error);
  if (strcmp(words, "-") == 0) {
    if (status != CS_OK) return fail("it does not start", error.message);
    table->instance_destroy(instance);
    return 0;
  }
  if (status == CS_OK) return fail("it starts", "a failure was expected");
  if (instance) return fail("it fails", "and gives an instance");
  printf("%s\n", error.message);
  if (strchr(error.message, '\n')) return fail("more than one line", error.message);
  return strstr(error.message, words) ? 0 : fail("the line lacks", words);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail("dlopen", dlerror());
  cs_plugin_query_fn query;
  *(void **)&query = dlsym(library, CS_PLUGIN_QUERY_SYMBOL);
  if (!*(void **)&query) return fail("no entry", argv[1]);
  cs_plugin plugin = {.struct_size = sizeof plugin};
  if (query(&test_host, &plugin) != CS_OK) return fail("query", "refused");
  const cs_device_table *table = plugin.table(CS_TABLE_DEVICE, 0);
  return check(table, argv[2]);
}
