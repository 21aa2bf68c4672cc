/* The module stands in a folder beside the plugins, found from where this code was loaded. dlopen
 * counts how often a library was opened, so that nothing has to be remembered here. */
#include "scheduler/fabric.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"

#define MODULE_NAME "libconsort-ucx.so"

/* Beside the library that holds this code, or below the folder of a program that holds it. */
static bool find_module(char *out, size_t bytes) {
  static const char *const places[] = {"consort/" MODULE_NAME, "../lib/consort/" MODULE_NAME};
  Dl_info info;
  char path[PATH_MAX];
  if (!dladdr((void *)&find_module, &info) || !info.dli_fname || !realpath(info.dli_fname, path))
    return false;
  char *const slash = strrchr(path, '/');
  if (!slash) return false;
  *slash = '\0';
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    const int used = snprintf(out, bytes, "%s/%s", path, places[i]);
    if (used > 0 && (size_t)used < bytes && access(out, R_OK) == 0) return true;
  }
  return false;
}

cs_status cs_fabric_find(const cs_fabric_table **out, cs_error *error) {
  *out = NULL;
  char path[PATH_MAX + 32];
  if (!find_module(path, sizeof path))
    return cs_error_set(error, CS_UNSUPPORTED,
                        "this build has no network module: other processes cannot be reached "
                        "(build with libucx-dev and libsodium-dev)");
  /* Never closed: the library behind it leaves hooks in the process. */
  void *const module = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!module) {
    const char *const why = dlerror();
    return cs_error_set(error, CS_UNSUPPORTED, "the network module does not load: %s",
                        why ? why : path);
  }
  cs_fabric_query_fn query;
  void *const symbol = dlsym(module, CS_FABRIC_SYMBOL);
  memcpy(&query, &symbol, sizeof query);
  const cs_fabric_table *const table = query ? query() : NULL;
  if (!table || table->version != CS_FABRIC_VERSION)
    return cs_error_set(error, CS_UNSUPPORTED, "%s is of another version", path);
  const cs_status status = table->hash_init(error);
  if (!status) *out = table;
  return status;
}
