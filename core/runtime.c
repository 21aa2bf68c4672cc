/* Manifests are read when the runtime is made, libraries only when a plugin is first asked for
 * something: a program that uses one device must not pay for, or fail with, the others. */
#include "core/runtime.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/runtime_private.h"

#define MANIFESTS_MAX 1024
#define SUFFIX        ".plugin"

/* ---- what plugins are offered ---- */

static void *host_allocate(void *context, uint64_t bytes, uint64_t alignment) {
  (void)context;
  void *pointer = NULL;
  if (alignment < sizeof(void *)) alignment = sizeof(void *);
  if (bytes > SIZE_MAX || alignment > SIZE_MAX) return NULL;
  return posix_memalign(&pointer, (size_t)alignment, (size_t)bytes) == 0 ? pointer : NULL;
}

static void host_deallocate(void *context, void *pointer) {
  (void)context;
  free(pointer);
}

static void host_log(void *context, uint32_t level, const char *line) {
  const cs_host_services *services = context;
  cs_log_write(services->log, level, "%s", line);
}

static cs_host_services *create_services(cs_log *log) {
  cs_host_services *services = malloc(sizeof *services);
  if (!services) return NULL;
  *services = (cs_host_services){
      .host = {.struct_size = sizeof(cs_host),
               .abi_min = 0,
               .abi_max = CS_ABI_VERSION,
               .context = services,
               .allocate = host_allocate,
               .deallocate = host_deallocate,
               .log = host_log},
      .log = log,
  };
  return services;
}

/* ---- finding manifests ---- */

/* Fills `out` with what lies at consort/NAME beside the library that holds this code, or, for a
 * program that holds it itself, beside the program's own folder; empty when nobody can say where.
 */
static void find_beside(const char *name, char *out, size_t bytes) {
  Dl_info info;
  char path[PATH_MAX];
  out[0] = '\0';
  if (dladdr((void *)&find_beside, &info) && info.dli_fname && realpath(info.dli_fname, path)) {
    *strrchr(path, '/') = '\0';
    snprintf(out, bytes, "%s/consort/%s", path, name);
    if (access(out, R_OK) == 0) return;
  }
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
  if (n <= 0) return;
  path[n] = '\0';
  char *slash = strrchr(path, '/');
  if (slash) *slash = '\0';
  snprintf(out, bytes, "%s/../lib/consort/%s", path, name);
}

static int is_manifest(const struct dirent *entry) {
  const size_t length = strlen(entry->d_name);
  const size_t suffix = strlen(SUFFIX);
  return length > suffix && strcmp(entry->d_name + length - suffix, SUFFIX) == 0;
}

/* The slot of the module of that name, or the free one behind the last. */
static cs_module **find_slot(cs_runtime *runtime, const char *name) {
  cs_module **slot = runtime->modules;
  while (slot < runtime->modules + runtime->n_modules && strcmp((*slot)->manifest.name, name) != 0)
    slot++;
  return slot;
}

/* A manifest that cannot be read still shows, under its file name, with the reason. */
static cs_status stand_in(const char *path, const char *file_name, cs_manifest *out,
                          cs_error *error) {
  *out = (cs_manifest){.path = strdup(path), .library = strdup("")};
  if (!out->path || !out->library) {
    cs_manifest_finish(out);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no memory", path);
  }
  snprintf(out->name, sizeof out->name, "%.*s", (int)(strlen(file_name) - strlen(SUFFIX)),
           file_name);
  return CS_OK;
}

/* Reads one manifest and adds its module, in place of an earlier one of the same name. */
static cs_status add_manifest(cs_runtime *runtime, const char *folder, const char *file_name,
                              cs_error *error) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", folder, file_name) >= (int)sizeof path) return CS_OK;
  cs_manifest manifest;
  cs_error failure = CS_ERROR_INIT;
  cs_status status = CS_OK;
  const bool readable = cs_manifest_read(path, runtime->log, &manifest, &failure) == CS_OK;
  if (!readable) status = stand_in(path, file_name, &manifest, error);
  if (status != CS_OK) return status;
  cs_module **slot = find_slot(runtime, manifest.name);
  const bool is_new = slot == runtime->modules + runtime->n_modules;
  cs_module *module =
      is_new && runtime->n_modules == MANIFESTS_MAX ? NULL : cs_module_create(&manifest);
  if (!module) {
    cs_manifest_finish(&manifest);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no room for another plugin", path);
  }
  if (!is_new) {
    cs_log_write(runtime->log, CS_LOG_INFO, "plugin %s: %s takes the place of %s",
                 module->manifest.name, path, (*slot)->manifest.path);
    cs_module_destroy(*slot);
  }
  *slot = module;
  runtime->n_modules += is_new;
  if (!readable) {
    cs_module_refuse(module, failure.message);
    cs_log_write(runtime->log, CS_LOG_INFO, "%s", failure.message);
  }
  return CS_OK;
}

/* A folder that is not there is no failure: most users have no folder of their own. */
static cs_status scan_folder(cs_runtime *runtime, const char *folder, cs_error *error) {
  struct dirent **entries = NULL;
  const int n = scandir(folder, &entries, is_manifest, alphasort);
  if (n < 0) {
    if (errno == ENOMEM) return cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no memory", folder);
    cs_log_write(runtime->log, CS_LOG_DEBUG, "no plugins in %s: %s", folder, strerror(errno));
    return CS_OK;
  }
  cs_status status = CS_OK;
  for (int i = 0; i < n; i++) {
    if (status == CS_OK) status = add_manifest(runtime, folder, entries[i]->d_name, error);
    free(entries[i]);
  }
  free(entries);
  return status;
}

static cs_status scan_user_folder(cs_runtime *runtime, cs_error *error) {
  char folder[PATH_MAX];
  const char *data = secure_getenv("XDG_DATA_HOME");
  const char *home = secure_getenv("HOME");
  if (data && data[0] == '/') {
    snprintf(folder, sizeof folder, "%s/consort/plugins", data);
  } else if (home && home[0] == '/') {
    snprintf(folder, sizeof folder, "%s/.local/share/consort/plugins", home);
  } else {
    return CS_OK;
  }
  return scan_folder(runtime, folder, error);
}

static cs_status scan_environment(cs_runtime *runtime, cs_error *error) {
  const char *list = secure_getenv("CONSORT_PLUGIN_PATH");
  cs_status status = CS_OK;
  while (list && *list && status == CS_OK) {
    const size_t length = strcspn(list, ":");
    char folder[PATH_MAX];
    if (length > 0 && length < sizeof folder) {
      memcpy(folder, list, length);
      folder[length] = '\0';
      status = scan_folder(runtime, folder, error);
    }
    list += length + (list[length] == ':');
  }
  return status;
}

static int compare_modules(const void *a, const void *b) {
  const cs_module *const *left = a;
  const cs_module *const *right = b;
  return strcmp((*left)->manifest.name, (*right)->manifest.name);
}

static cs_status find_plugins(cs_runtime *runtime, const cs_runtime_options *options,
                              cs_error *error) {
  char folder[PATH_MAX];
  if (options->system_dir) {
    snprintf(folder, sizeof folder, "%s", options->system_dir);
  } else {
    find_beside("plugins", folder, sizeof folder);
  }
  cs_status status = folder[0] ? scan_folder(runtime, folder, error) : CS_OK;
  if (status == CS_OK && !options->skip_user_dir) status = scan_user_folder(runtime, error);
  if (status == CS_OK && !options->skip_environment) status = scan_environment(runtime, error);
  if (status != CS_OK) return status;
  qsort(runtime->modules, runtime->n_modules, sizeof *runtime->modules, compare_modules);
  return CS_OK;
}

/* ---- life ---- */

static bool wants_validation(const cs_runtime_options *options) {
  const char *value = getenv("CONSORT_VALIDATE");
  return options->validate || (value && strcmp(value, "1") == 0);
}

static void destroy(cs_runtime *runtime) {
  bool leaked = false;
  cs_bridge_destroy(runtime->bridge);
  for (uint32_t i = 0; i < runtime->n_modules; i++) {
    leaked |= atomic_load(&runtime->modules[i]->leaked);
    cs_module_destroy(runtime->modules[i]);
  }
  free(runtime->modules);
  cs_validator_destroy(runtime->validator);
  if (!leaked) {
    free(runtime->services);
    cs_log_destroy(runtime->log);
  }
  pthread_mutex_destroy(&runtime->mutex);
  free(runtime->probe);
  free(runtime);
}

/* Without the program plugins are started all the same: who packs Consort may have left it out.
 * false when out of memory. */
static bool find_probe(cs_runtime *runtime) {
  char path[PATH_MAX];
  find_beside(CS_PROBE_PROGRAM, path, sizeof path);
  if (access(path, X_OK) != 0) {
    cs_log_write(runtime->log, CS_LOG_WARN,
                 "%s is missing: a plugin that crashes when it starts takes this program with it",
                 path[0] ? path : CS_PROBE_PROGRAM);
    return true;
  }
  runtime->probe = strdup(path);
  return runtime->probe != NULL;
}

cs_status cs_runtime_create(const cs_runtime_options *options, cs_runtime **out, cs_error *error) {
  static const cs_runtime_options defaults = {.log_level = CS_LOG_WARN};
  *out = NULL;
  if (!options) options = &defaults;
  cs_runtime *runtime = calloc(1, sizeof *runtime);
  if (!runtime) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a runtime");
  cs_status status = CS_OUT_OF_MEMORY;
  if (pthread_mutex_init(&runtime->mutex, NULL) != 0) goto err_free_runtime;
  atomic_init(&runtime->refs, 1);
  atomic_init(&runtime->user_refs, 1);
  runtime->log = cs_log_create(options->log_level, options->log_sink, options->log_user);
  runtime->services = create_services(runtime->log);
  runtime->modules = calloc(MANIFESTS_MAX, sizeof *runtime->modules);
  runtime->bridge = cs_bridge_create();
  if (!runtime->log || !runtime->services || !runtime->modules || !runtime->bridge) {
    goto err_destroy;
  }
  if (wants_validation(options)) {
    runtime->validator = cs_validator_create(runtime->log);
    if (!runtime->validator) goto err_destroy;
  }
  if (options->probe && !find_probe(runtime)) goto err_destroy;
  status = find_plugins(runtime, options, error);
  if (status != CS_OK) goto err_destroy_told;
  *out = runtime;
  return CS_OK;

err_destroy:
  cs_error_set(error, status, "no memory for a runtime");
err_destroy_told:
  destroy(runtime);
  return status;
err_free_runtime:
  free(runtime);
  return cs_error_set(error, status, "no memory for a runtime");
}

void cs_runtime_retain_internal(cs_runtime *runtime) {
  atomic_fetch_add(&runtime->refs, 1);
}

void cs_runtime_release_internal(cs_runtime *runtime) {
  if (atomic_fetch_sub(&runtime->refs, 1) == 1) destroy(runtime);
}

void cs_runtime_retain(cs_runtime *runtime) {
  atomic_fetch_add(&runtime->user_refs, 1);
  cs_runtime_retain_internal(runtime);
}

void cs_runtime_release(cs_runtime *runtime) {
  if (!runtime) return;
  if (atomic_fetch_sub(&runtime->user_refs, 1) == 1) cs_validator_report(runtime->validator);
  cs_runtime_release_internal(runtime);
}

/* ---- questions ---- */

cs_log *cs_runtime_log(cs_runtime *runtime) {
  return runtime->log;
}

uint32_t cs_runtime_n_plugins(const cs_runtime *runtime) {
  return runtime->n_modules;
}

static void load_module(cs_runtime *runtime, cs_module *module) {
  cs_module_load(module, &runtime->services->host, runtime->log, runtime->probe);
}

cs_module *cs_runtime_find_module(cs_runtime *runtime, const char *name) {
  cs_module **slot = find_slot(runtime, name);
  if (slot == runtime->modules + runtime->n_modules) return NULL;
  load_module(runtime, *slot);
  return *slot;
}

cs_status cs_runtime_plugin(cs_runtime *runtime, uint32_t index, cs_plugin_status *out,
                            cs_error *error) {
  *out = (cs_plugin_status){0};
  if (index >= runtime->n_modules) {
    return cs_error_set(error, CS_OUT_OF_RANGE, "no plugin %u: there are %u", index,
                        runtime->n_modules);
  }
  cs_module *module = runtime->modules[index];
  load_module(runtime, module);
  *out = (cs_plugin_status){.name = module->manifest.name,
                            .manifest_path = module->manifest.path,
                            .library_path = module->manifest.library,
                            .version = module->plugin.version ? module->plugin.version : "",
                            .vendor = module->plugin.vendor ? module->plugin.vendor : "",
                            .failure = cs_module_failure(module),
                            .visible_devices = module->manifest.visible_devices,
                            .n_devices = module->n_devices};
  return CS_OK;
}

cs_status cs_runtime_device_info(cs_runtime *runtime, uint32_t plugin_index, uint32_t device_index,
                                 cs_device_properties *out, cs_error *error) {
  cs_plugin_status plugin;
  const cs_status status = cs_runtime_plugin(runtime, plugin_index, &plugin, error);
  if (status != CS_OK) return status;
  if (plugin.failure || device_index >= plugin.n_devices) {
    return cs_error_set(error, CS_NOT_FOUND, "no device \"%s:%u\": %s", plugin.name, device_index,
                        plugin.failure ? plugin.failure : "the plugin has fewer");
  }
  return cs_module_device_info(runtime->modules[plugin_index], device_index, out, error);
}
