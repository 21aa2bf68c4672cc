/* Inside of the runtime, for the other files of core. */
#ifndef CORE_RUNTIME_PRIVATE_H
#define CORE_RUNTIME_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bridge.h"
#include "core/plugin.h"
#include "core/runtime.h"
#include "core/validate.h"

struct cs_device;

struct cs_runtime {
  atomic_uint refs;      /* owners and open devices */
  atomic_uint user_refs; /* owners alone: the last one to go asks for a leak report */
  cs_host_services *services;
  cs_log *log;
  char *probe;         /* the program that tries plugins first; NULL: nothing does. Owned */
  cs_module **modules; /* sorted by name; constant after create */
  uint32_t n_modules;
  pthread_mutex_t mutex;
  struct cs_device *open_devices; /* guarded by mutex; linked by next_open, not retained */
  cs_bridge *bridge;
  cs_validator *validator; /* NULL unless validating */
};

/* Like retain and release, for what the runtime itself hands out. */
void cs_runtime_retain_internal(cs_runtime *runtime);
void cs_runtime_release_internal(cs_runtime *runtime);

/* The module of that name, loaded; NULL when there is none. */
cs_module *cs_runtime_find_module(cs_runtime *runtime, const char *name);

#endif
