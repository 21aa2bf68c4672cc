/* The runtime: the plugins that were found, their state, and the log. Everything hangs from it. */
#ifndef CORE_RUNTIME_H
#define CORE_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "core/log.h"

typedef struct cs_runtime cs_runtime; /* shared: retain and release */

typedef struct cs_runtime_options {
  const char *system_dir; /* NULL: "consort/plugins" beside the library that holds core */
  bool skip_user_dir;     /* else $XDG_DATA_HOME/consort/plugins or ~/.local/share/... */
  bool skip_environment;  /* else CONSORT_PLUGIN_PATH, ignored with raised rights */
  bool validate;          /* or CONSORT_VALIDATE=1 */
  bool probe; /* start each plugin in a process of its own first: one that crashes is told */
  uint32_t log_level;   /* CS_LOG_* */
  cs_log_sink log_sink; /* NULL: standard error */
  void *log_user;
} cs_runtime_options;

/* NULL options: the defaults above with CS_LOG_WARN. Reads manifests only; a plugin's library is
 * opened when it is first needed. Later folders override earlier ones by plugin name:
 * system, user, environment. */
cs_status cs_runtime_create(const cs_runtime_options *options, cs_runtime **out, cs_error *error);
void cs_runtime_retain(cs_runtime *runtime);
void cs_runtime_release(cs_runtime *runtime);
cs_log *cs_runtime_log(cs_runtime *runtime);

/* One plugin found by its manifest. */
typedef struct cs_plugin_status {
  const char *name; /* from the manifest; borrowed from the runtime, like all below */
  const char *manifest_path;
  const char *library_path;
  const char *version; /* empty until loaded */
  const char *vendor;
  const char *failure; /* NULL when it started, else one line: why it has no device */
  /* The variable by which its driver hides devices and numbers the rest from 0; "": none. */
  const char *visible_devices;
  uint32_t n_devices;
} cs_plugin_status;

uint32_t cs_runtime_n_plugins(const cs_runtime *runtime);

/* Loads plugin `index` if that has not been tried yet. Its failure is in *out, not in the return
 * value. Free-threaded. */
cs_status cs_runtime_plugin(cs_runtime *runtime, uint32_t index, cs_plugin_status *out,
                            cs_error *error);

/* Properties of a device without opening it. */
cs_status cs_runtime_device_info(cs_runtime *runtime, uint32_t plugin_index, uint32_t device_index,
                                 cs_device_properties *out, cs_error *error);

#endif
