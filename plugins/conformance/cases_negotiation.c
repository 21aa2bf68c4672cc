/* Does the plugin keep the rules of evolution: version ranges, and structs that are longer or
 * shorter than the ones it was built with. A struct from the future is imitated by a tail behind
 * today's fields, one from the past by a smaller struct_size in front of a pattern that has to
 * survive. */
#include <string.h>

#include "registry.h"

#define TAIL_BYTES 48
#define PATTERN    0xa5

static void query_current(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin plugin = {.struct_size = sizeof plugin};
  kit_check(k, k->plugin.query(&k->plugin.host.host, &plugin) == CS_OK,
            "a second query fails though the first did not");
  kit_check(k, plugin.abi_version <= CS_ABI_VERSION, "picks ABI version %u of 0 to %d",
            plugin.abi_version, CS_ABI_VERSION);
  kit_check(k, plugin.name && plugin.name[0], "no name");
  kit_check(k, strspn(plugin.name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(plugin.name),
            "the name \"%.40s\" has other characters than a-z, 0-9, '-' and '_'", plugin.name);
  kit_check(k, plugin.version && plugin.vendor, "version or vendor is NULL");
  kit_check(k, plugin.table != NULL, "no table function");
}

static void query_versions(kit *k, const kit_case *c) {
  (void)c;
  cs_host host = k->plugin.host.host;
  cs_plugin plugin = {.struct_size = sizeof plugin};
  host.abi_max = 1000;
  kit_check(k, k->plugin.query(&host, &plugin) == CS_OK && plugin.abi_version <= 1000,
            "a host that also speaks newer versions (0 to 1000) is refused");
  host.abi_min = 1000000;
  host.abi_max = 1000001;
  plugin = (cs_plugin){.struct_size = sizeof plugin};
  const cs_status status = k->plugin.query(&host, &plugin);
  kit_check(k, status == CS_UNSUPPORTED,
            "a host that speaks only versions 1000000 to 1000001 is answered with status %d, "
            "not CS_UNSUPPORTED",
            status);
}

static void unknown_tables(kit *k, const kit_case *c) {
  (void)c;
  const uint32_t ids[] = {0, 13, 99, UINT32_MAX};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
    kit_check(k, k->plugin.identity.table(ids[i], 0) == NULL, "table id %u answers a table",
              ids[i]);
  kit_check(k, k->plugin.identity.table(CS_TABLE_DEVICE, 1000) == NULL,
            "revision 1000 of the device table answers a table");
}

static void tables_state_their_size(kit *k, const kit_case *c) {
  (void)c;
  for (uint32_t id = CS_TABLE_DEVICE; id <= CS_TABLE_WEIGHTS_MAP; id++) {
    const void *table = k->plugin.identity.table(id, 0);
    if (!table) continue;
    uint32_t bytes;
    memcpy(&bytes, table, sizeof bytes);
    kit_check(k, bytes >= 16 && bytes <= 4096 && bytes % 4 == 0, "table %u says struct_size %u", id,
              bytes);
  }
  kit_check(k,
            k->plugin.device.instance_create && k->plugin.device.instance_destroy &&
                k->plugin.device.device_count && k->plugin.device.device_info &&
                k->plugin.device.device_open && k->plugin.device.device_close &&
                k->plugin.device.device_properties,
            "an entry of the device table is NULL");
  kit_check(k, k->plugin.memory.memory_allocate && k->plugin.memory.memory_free,
            "a required entry of the memory table is NULL");
  kit_check(k, k->plugin.capability.op_query && k->plugin.capability.weights_pack,
            "an entry of the capability table is NULL");
}

static void host_tail(kit *k, const kit_case *c) {
  struct {
    cs_host host;
    unsigned char tail[TAIL_BYTES];
  } newer = {.host = k->plugin.host.host};
  newer.host.struct_size = sizeof newer;
  newer.tail[7] = (unsigned char)c->argument;
  cs_plugin plugin = {.struct_size = sizeof plugin};
  const cs_status status = k->plugin.query(&newer.host, &plugin);
  if (c->argument == 0)
    kit_check(k, status == CS_OK, "a longer cs_host with a zero tail: status %d", status);
  else
    kit_check(k, status == CS_UNSUPPORTED,
              "a longer cs_host that uses unknown fields: status %d, not CS_UNSUPPORTED", status);
}

static void smaller_plugin_struct(kit *k, const kit_case *c) {
  (void)c;
  union {
    cs_plugin plugin;
    unsigned char bytes[sizeof(cs_plugin)];
  } older;
  const uint32_t size = offsetof(cs_plugin, vendor);
  memset(&older, PATTERN, sizeof older);
  older.plugin.struct_size = size;
  k->plugin.query(&k->plugin.host.host, &older.plugin);
  kit_check(k, older.plugin.struct_size == size, "the query changes struct_size");
  for (size_t i = size; i < sizeof older; i++)
    kit_check(k, older.bytes[i] == PATTERN, "the query writes byte %zu of a cs_plugin of %u bytes",
              i, size);
}

static void longer_outputs(kit *k, const kit_case *c) {
  (void)c;
  struct {
    cs_device_properties properties;
    unsigned char tail[TAIL_BYTES];
  } newer;
  memset(&newer, 0, sizeof newer);
  newer.properties.struct_size = sizeof newer;
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.device.device_properties(k->device, &newer.properties, &error), &error,
               "device_properties with a longer struct");
  kit_check(k, newer.properties.tensor_align == k->properties.tensor_align,
            "a longer cs_device_properties is filled with something else");
}

static void smaller_properties(kit *k, const kit_case *c) {
  (void)c;
  union {
    cs_device_properties properties;
    unsigned char bytes[sizeof(cs_device_properties)];
  } older;
  const uint32_t sizes[] = {4, 16, 20, 64, 68, 120};
  for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
    memset(&older, PATTERN, sizeof older);
    older.properties.struct_size = sizes[s];
    cs_error error = CS_ERROR_INIT;
    kit_check_ok(k, k->plugin.device.device_properties(k->device, &older.properties, &error),
                 &error, "device_properties with a shorter struct");
    for (size_t i = sizes[s]; i < sizeof older; i++)
      kit_check(k, older.bytes[i] == PATTERN,
                "device_properties writes byte %zu of a struct of %u bytes", i, sizes[s]);
  }
}

/* A request that every plugin refuses, so that an error has to be filled in. */
static void smaller_error(kit *k, const kit_case *c) {
  (void)c;
  union {
    cs_error error;
    unsigned char bytes[sizeof(cs_error)];
  } older;
  const uint32_t sizes[] = {4, 8, 16, 20, 40};
  for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
    memset(&older, PATTERN, sizeof older);
    older.error.struct_size = sizes[s];
    cs_plugin_memory *memory = NULL;
    const cs_status status = k->plugin.memory.memory_allocate(
        k->device, UINT64_MAX / 2, CS_MEMORY_DEVICE, &memory, &older.error);
    kit_check(k, status != CS_OK, "2^63 bytes were allocated");
    for (size_t i = sizes[s]; i < sizeof older; i++)
      kit_check(k, older.bytes[i] == PATTERN, "byte %zu of a cs_error of %u bytes is written", i,
                sizes[s]);
    kit_check(k, sizes[s] < 8 || older.error.code == status, "the error's code is %d, not %d",
              older.error.code, status);
  }
  cs_plugin_memory *memory = NULL;
  kit_check(k,
            k->plugin.memory.memory_allocate(k->device, UINT64_MAX / 2, CS_MEMORY_DEVICE, &memory,
                                             NULL) != CS_OK,
            "2^63 bytes were allocated");
}

/* ---- the longer op: descriptors from the future ---- */

typedef struct future_op {
  cs_op op;
  unsigned char tail[TAIL_BYTES];
} future_op;

typedef struct future_tensor {
  cs_tensor tensor;
  unsigned char tail[TAIL_BYTES];
} future_tensor;

typedef struct future_params {
  cs_rms_norm_params params;
  unsigned char tail[TAIL_BYTES];
} future_params;

typedef struct future {
  future_op op;
  future_tensor operands[5];
  future_params params;
  cs_plugin_memory *memory;
} future;

#define FUTURE_D 64 /* a row of the rms_norm below */

static void set_operand(future *f, uint32_t index, uint64_t offset, uint32_t rank) {
  cs_tensor *tensor = &f->operands[index].tensor;
  tensor->dtype = CS_DTYPE_F32;
  tensor->rank = rank;
  tensor->memory = f->memory;
  tensor->offset_bytes = offset;
  tensor->dims[0] = rank == 2 ? 1 : FUTURE_D;
  tensor->dims[1] = rank == 2 ? FUTURE_D : 0;
}

/* An rms_norm of one row at offset 0 into offset 1024 with its weight at 2048. */
static void make_future(kit *k, future *f) {
  memset(f, 0, sizeof *f);
  f->memory = kit_memory(k, 4096);
  float ones[FUTURE_D];
  for (int i = 0; i < FUTURE_D; i++)
    ones[i] = 1;
  kit_upload(k, f->memory, 0, ones, sizeof ones);
  kit_upload(k, f->memory, 2048, ones, sizeof ones);
  kit_finish(k);
  for (int i = 0; i < 5; i++)
    f->operands[i].tensor.struct_size = sizeof f->operands[i];
  set_operand(f, 0, 1024, 2);
  set_operand(f, 1, 0, 2);
  set_operand(f, 2, 2048, 1);
  f->params.params = (cs_rms_norm_params){.struct_size = sizeof f->params, .epsilon = 1e-5f};
  f->op.op = (cs_op){.struct_size = sizeof f->op,
                     .id = CS_OP_RMS_NORM,
                     .n_operands = 5,
                     .operand_stride = sizeof f->operands[0],
                     .operands = &f->operands[0].tensor,
                     .params = &f->params};
}

static cs_status enqueue_future(kit *k, const future *f, cs_error *error) {
  if (k->plugin.eager.ops_enqueue)
    return k->plugin.eager.ops_enqueue(kit_stream(k), &f->op.op, 1, sizeof f->op, NULL, error);
  cs_plugin_program *program = NULL;
  const cs_status status = k->plugin.program.program_create(k->device, &f->op.op, 1, sizeof f->op,
                                                            NULL, &program, error);
  if (status != CS_OK) return status;
  kit_track(k, KIT_PROGRAM, program);
  return k->plugin.program.program_launch(kit_stream(k), program, error);
}

static bool query_future(kit *k, const future *f, cs_status *status) {
  cs_op_answer answer = {.struct_size = sizeof answer};
  cs_error error = CS_ERROR_INIT;
  *status = k->plugin.capability.op_query(k->device, &f->op.op, &answer, &error);
  return *status == CS_OK && answer.support != CS_SUPPORT_NO && answer.workspace_bytes == 0;
}

static void longer_op(kit *k, const kit_case *c) {
  (void)c;
  future f;
  make_future(k, &f);
  cs_status status;
  if (!query_future(k, &f, &status)) {
    kit_check(k, status == CS_OK, "op_query of descriptors with zero tails: status %d", status);
    kit_unsupported(k, "rms_norm, which this case runs, is not served without a workspace");
    return;
  }
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, enqueue_future(k, &f, &error), &error,
               "enqueueing an op whose structs have zero tails");
  float out[FUTURE_D];
  kit_download(k, out, f.memory, 1024, sizeof out);
  for (int i = 0; i < FUTURE_D; i++)
    kit_check(k, out[i] > 0.999f && out[i] < 1.001f, "element %d of the result is %g, not 1", i,
              (double)out[i]);
}

static void longer_op_refused(kit *k, const kit_case *c) {
  future f;
  make_future(k, &f);
  cs_status status;
  if (!query_future(k, &f, &status)) {
    kit_unsupported(k, "rms_norm, which this case asks for, is not served");
    return;
  }
  const char *const names[] = {"cs_op", "cs_tensor", "cs_rms_norm_params"};
  if (c->argument == 0) f.op.tail[5] = 1;
  if (c->argument == 1) f.operands[1].tail[TAIL_BYTES - 1] = 1;
  if (c->argument == 2) f.params.tail[0] = 1;
  const bool yes = query_future(k, &f, &status);
  kit_check(k, !yes && (status == CS_OK || status == CS_UNSUPPORTED),
            "op_query of a %s with unknown fields in use: status %d, %s", names[c->argument],
            status, yes ? "yes" : "no");
  cs_error error = CS_ERROR_INIT;
  status = enqueue_future(k, &f, &error);
  kit_check(k, status == CS_UNSUPPORTED,
            "enqueueing a %s with unknown fields in use: status %d, not CS_UNSUPPORTED",
            names[c->argument], status);
}

static void smaller_answer(kit *k, const kit_case *c) {
  (void)c;
  future f;
  make_future(k, &f);
  union {
    cs_op_answer answer;
    unsigned char bytes[sizeof(cs_op_answer)];
  } older;
  const uint32_t sizes[] = {8, 16, 24, 40};
  for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
    memset(&older, PATTERN, sizeof older);
    older.answer.struct_size = sizes[s];
    cs_error error = CS_ERROR_INIT;
    k->plugin.capability.op_query(k->device, &f.op.op, &older.answer, &error);
    for (size_t i = sizes[s]; i < sizeof older; i++)
      kit_check(k, older.bytes[i] == PATTERN,
                "op_query writes byte %zu of a cs_op_answer of %u bytes", i, sizes[s]);
  }
}

void kit_add_negotiation_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = query_current}, "negotiation/query");
  kit_add(r, &(kit_case){.badges = core, .run = query_versions}, "negotiation/version_ranges");
  kit_add(r, &(kit_case){.badges = core, .run = unknown_tables}, "negotiation/unknown_tables");
  kit_add(r, &(kit_case){.badges = core, .run = tables_state_their_size},
          "negotiation/required_tables");
  kit_add(r, &(kit_case){.badges = core, .run = host_tail, .argument = 0},
          "negotiation/longer_host_zero_tail");
  kit_add(r, &(kit_case){.badges = core, .run = host_tail, .argument = 1},
          "negotiation/longer_host_with_unknown_fields_is_refused");
  kit_add(r, &(kit_case){.badges = core, .run = smaller_plugin_struct},
          "negotiation/shorter_plugin_struct");
  kit_add(r, &(kit_case){.badges = core, .run = longer_outputs}, "negotiation/longer_output");
  kit_add(r, &(kit_case){.badges = core, .run = smaller_properties},
          "negotiation/shorter_properties");
  kit_add(r, &(kit_case){.badges = core, .run = smaller_error}, "negotiation/shorter_error");
  kit_add(r, &(kit_case){.badges = core, .run = smaller_answer}, "negotiation/shorter_answer");
  kit_add(r, &(kit_case){.badges = KIT_BADGE_LLM_DENSE, .run = longer_op},
          "negotiation/longer_op_zero_tail");
  const char *const names[] = {"op", "tensor", "params"};
  for (uint32_t i = 0; i < 3; i++)
    kit_add(r, &(kit_case){.badges = KIT_BADGE_LLM_DENSE, .run = longer_op_refused, .argument = i},
            "negotiation/longer_%s_with_unknown_fields_is_refused", names[i]);
}
