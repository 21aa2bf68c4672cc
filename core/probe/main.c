/* consort-probe LIBRARY: starts and ends a plugin in a process of its own, so that a crash, an
 * abort, a hang or an exit inside it takes this process down and not the host
 * (core/plugin_probe.c). It says by single bytes on descriptor 3 how far it came; what the plugin
 * answers does not matter, as the host asks again itself. */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/plugin.h"

static void tell_stage(void) {
  while (write(CS_PROBE_DESCRIPTOR, "+", 1) < 0 && errno == EINTR) {
  }
}

/* A sanitizer or a shell may have left handlers or a limit that would hide or keep a crash. */
static void die_plainly(void) {
  static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP};
  for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
    signal(fatal[i], SIG_DFL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
}

static void *allocate(void *context, uint64_t bytes, uint64_t alignment) {
  (void)context;
  void *pointer = NULL;
  if (alignment < sizeof(void *)) alignment = sizeof(void *);
  return posix_memalign(&pointer, (size_t)alignment, (size_t)bytes) == 0 ? pointer : NULL;
}

static void deallocate(void *context, void *pointer) {
  (void)context;
  free(pointer);
}

static void drop_line(void *context, uint32_t level, const char *line) {
  (void)context;
  (void)level;
  (void)line;
}

/* Loads, queries, starts and ends the plugin, telling each stage. */
static void run(const char *library, const cs_host *host) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  tell_stage();
  cs_plugin_query_fn query = NULL;
  void *symbol = handle ? dlsym(handle, CS_PLUGIN_QUERY_SYMBOL) : NULL;
  memcpy(&query, &symbol, sizeof query);
  cs_plugin plugin = {.struct_size = sizeof plugin};
  cs_tables tables;
  if (!query || query(host, &plugin) != CS_OK || !plugin.table) return;
  if (cs_tables_read(&plugin, &tables, NULL) != CS_OK) return;
  tell_stage();
  cs_plugin_instance *instance = NULL;
  cs_error error = CS_ERROR_INIT;
  if (tables.device.instance_create(host, &instance, &error) != CS_OK || !instance) return;
  tables.device.device_count(instance);
  tell_stage();
  tables.device.instance_destroy(instance);
}

int main(int n_arguments, char **arguments) {
  static const cs_host host = {.struct_size = sizeof host,
                               .abi_max = CS_ABI_VERSION,
                               .allocate = allocate,
                               .deallocate = deallocate,
                               .log = drop_line};
  if (n_arguments != 2) return 2;
  die_plainly();
  run(arguments[1], &host);
  while (write(CS_PROBE_DESCRIPTOR, CS_PROBE_END, 1) < 0 && errno == EINTR) {
  }
  _exit(0); /* a driver's own work at exit is no part of the question */
}
