/* Tables are copied, not pointed to: entries that an older plugin does not have read as NULL, and
 * a newer plugin's entries that this host does not know are noticed instead of ignored. */
#include <stddef.h>
#include <string.h>

#include "core/error.h"
#include "core/plugin.h"

#define TABLE_BYTES_MAX 4096
#define HEADER_BYTES    8 /* struct_size and one reserved or flag word; entries follow */

typedef struct table_rule {
  uint32_t id;
  const char *name;
  size_t offset; /* in cs_tables */
  size_t bytes;
  const char *required; /* names of the leading entries that must be there, one space between */
} table_rule;

#define RULE(ID, member, required_entries)                                                         \
  {                                                                                                \
    CS_TABLE_##ID, #member, offsetof(cs_tables, member), sizeof(((cs_tables *)0)->member),         \
        required_entries                                                                           \
  }

static const table_rule rules[] = {
    RULE(DEVICE, device,
         "instance_create instance_destroy device_count device_info device_open device_close "
         "device_properties"),
    RULE(MEMORY, memory, "memory_allocate memory_free"),
    RULE(STREAM, stream,
         "stream_create stream_destroy stream_upload stream_download stream_copy stream_fill "
         "stream_wait stream_signal"),
    RULE(SEMAPHORE, semaphore,
         "semaphore_create semaphore_destroy semaphore_query semaphore_wait semaphore_signal "
         "semaphore_fail"),
    RULE(CAPABILITY, capability, "op_query weights_pack"),
    RULE(EAGER, eager, "ops_enqueue"),
    RULE(PROGRAM, program, "program_create program_destroy program_launch"),
    RULE(KV_LAYOUT, kv_layout, "kv_layout_preferred"),
    RULE(EXTERNAL_MEMORY, external_memory, "memory_export memory_import"),
    RULE(PEER, peer, "peer_can_copy stream_peer_copy"),
    RULE(PROFILE, profile, "stream_profile_enable stream_profile_read"),
    RULE(WEIGHTS_MAP, weights_map, "weights_layout weights_save weights_map"),
};

#define N_RULES (sizeof rules / sizeof rules[0])

static bool is_required(uint32_t table_id) {
  return table_id <= CS_TABLE_CAPABILITY;
}

/* Copies one table into *to (zeroed); leaves it zero when the plugin has none. */
static cs_status copy_table(const table_rule *rule, const cs_plugin *plugin, void *to,
                            cs_error *error) {
  const unsigned char *from = plugin->table(rule->id, 0);
  if (!from) return CS_OK;
  uint32_t bytes = 0;
  memcpy(&bytes, from, sizeof bytes);
  if (bytes < HEADER_BYTES || bytes > TABLE_BYTES_MAX) {
    return cs_error_set(error, CS_CORRUPT, "table %s says it has %u bytes", rule->name, bytes);
  }
  for (size_t i = rule->bytes; i < bytes; i++) {
    if (from[i] == 0) continue;
    return cs_error_set(error, CS_UNSUPPORTED, "table %s has entries that this host does not know",
                        rule->name);
  }
  memcpy(to, from, bytes < rule->bytes ? bytes : rule->bytes);
  return CS_OK;
}

/* The first required entry that is NULL, as a pointer into rule->required; NULL when whole. */
static const char *missing_entry(const table_rule *rule, const void *table) {
  const unsigned char *entry = (const unsigned char *)table + HEADER_BYTES;
  for (const char *name = rule->required; name; entry += sizeof(void *)) {
    void *function = NULL;
    memcpy(&function, entry, sizeof function);
    if (!function) return name;
    const char *space = strchr(name, ' ');
    name = space ? space + 1 : NULL;
  }
  return NULL;
}

cs_status cs_tables_read(const cs_plugin *plugin, cs_tables *out, cs_error *error) {
  *out = (cs_tables){0};
  for (size_t i = 0; i < N_RULES; i++) {
    const table_rule *rule = &rules[i];
    unsigned char *table = (unsigned char *)out + rule->offset;
    const cs_status status = copy_table(rule, plugin, table, error);
    if (status != CS_OK) return status;
    const char *missing = missing_entry(rule, table);
    if (!missing) continue;
    if (is_required(rule->id)) {
      return cs_error_set(error, CS_UNSUPPORTED, "table %s lacks %.*s", rule->name,
                          (int)strcspn(missing, " "), missing);
    }
    memset(table, 0, rule->bytes);
  }
  if (!cs_tables_has(out, CS_TABLE_EAGER) && !cs_tables_has(out, CS_TABLE_PROGRAM)) {
    return cs_error_set(error, CS_UNSUPPORTED, "has neither the eager nor the program table");
  }
  return CS_OK;
}

bool cs_tables_has(const cs_tables *tables, uint32_t table_id) {
  for (size_t i = 0; i < N_RULES; i++) {
    if (rules[i].id != table_id) continue;
    uint32_t bytes = 0;
    memcpy(&bytes, (const unsigned char *)tables + rules[i].offset, sizeof bytes);
    return bytes != 0;
  }
  return false;
}
