/* The list of faults, and loading the plugin that they happen to. */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"

typedef struct fault_name {
  const char *name;
  fault_kind kind;
  uint32_t n_numbers;
} fault_name;

static const fault_name fault_names[] = {{"alloc", FAULT_ALLOC, 1},
                                         {"launch", FAULT_LAUNCH, 2},
                                         {"hang", FAULT_HANG, 1},
                                         {"lost", FAULT_LOST, 1},
                                         {"crash", FAULT_CRASH, 1},
                                         {"slow", FAULT_SLOW, 1},
                                         {"reorder", FAULT_REORDER, 0},
                                         {"lie", FAULT_LIE, 0},
                                         {"noise", FAULT_NOISE, 0},
                                         {"corrupt-kv", FAULT_CORRUPT_KV, 0},
                                         {"skip-write", FAULT_SKIP_WRITE, 0},
                                         {"write-before", FAULT_WRITE_BEFORE, 0},
                                         {"write-after", FAULT_WRITE_AFTER, 0},
                                         {"write-between", FAULT_WRITE_BETWEEN, 0},
                                         {"write-input", FAULT_WRITE_INPUT, 0},
                                         {"leak", FAULT_LEAK, 0},
                                         {"leak-driver", FAULT_LEAK_DRIVER, 0}};

/* ":123"; moves *text behind it. */
static bool take_number(const char **text, uint64_t *out) {
  if (**text != ':') return false;
  char *end;
  errno = 0;
  *out = strtoull(*text + 1, &end, 10);
  if (errno || end == *text + 1) return false;
  *text = end;
  return true;
}

static const fault_name *find_name(const char *text, size_t length) {
  for (size_t i = 0; i < sizeof fault_names / sizeof fault_names[0]; i++)
    if (strlen(fault_names[i].name) == length && strncmp(fault_names[i].name, text, length) == 0)
      return &fault_names[i];
  return NULL;
}

cs_status fault_plan_parse(fault_plan *plan, const char *list, cs_error *error) {
  for (const char *at = list; *at;) {
    const char *const start = at;
    const fault_name *name = find_name(at, strcspn(at, ":,"));
    uint64_t numbers[2] = {0, 0};
    at += strcspn(at, ":,");
    bool is_fine = name != NULL;
    for (uint32_t i = 0; is_fine && i < name->n_numbers; i++)
      is_fine = take_number(&at, &numbers[i]);
    if (!is_fine || (*at && *at != ','))
      return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "no such fault: '%.64s'", start);
    plan->on[name->kind] = true;
    plan->argument[name->kind] = numbers[0];
    if (name->kind == FAULT_LAUNCH) plan->launch_status = (cs_status)numbers[1];
    if (*at == ',') at++;
  }
  return CS_OK;
}

static void copy_table(const cs_plugin *identity, uint32_t id, void *to, uint32_t to_bytes) {
  const void *table = identity->table(id, 0);
  uint32_t bytes = 0;
  memset(to, 0, to_bytes);
  if (!table) return;
  memcpy(&bytes, table, sizeof bytes);
  memcpy(to, table, bytes < to_bytes ? bytes : to_bytes);
}

cs_status fault_target_load(const cs_host *host, const char *path, fault_target *out,
                            cs_error *error) {
  memset(out, 0, sizeof *out);
  out->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!out->library) return cs_sdk_error(error, CS_NOT_FOUND, 0, "%s", dlerror());
  void *symbol = dlsym(out->library, CS_PLUGIN_QUERY_SYMBOL);
  cs_plugin_query_fn query;
  memcpy(&query, &symbol, sizeof query);
  if (!symbol) return cs_sdk_error(error, CS_CORRUPT, 0, "%.128s is no plugin", path);
  out->identity.struct_size = sizeof out->identity;
  const cs_status status = query(host, &out->identity);
  if (status != CS_OK) return cs_sdk_error(error, status, 0, "%.128s refuses the host", path);
  copy_table(&out->identity, CS_TABLE_DEVICE, &out->device, sizeof out->device);
  copy_table(&out->identity, CS_TABLE_MEMORY, &out->memory, sizeof out->memory);
  copy_table(&out->identity, CS_TABLE_STREAM, &out->stream, sizeof out->stream);
  copy_table(&out->identity, CS_TABLE_SEMAPHORE, &out->semaphore, sizeof out->semaphore);
  copy_table(&out->identity, CS_TABLE_CAPABILITY, &out->capability, sizeof out->capability);
  copy_table(&out->identity, CS_TABLE_EAGER, &out->eager, sizeof out->eager);
  copy_table(&out->identity, CS_TABLE_PROGRAM, &out->program, sizeof out->program);
  return CS_OK;
}
