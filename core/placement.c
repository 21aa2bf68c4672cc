/* A device is asked once, at load, at the largest extents, and its yes holds for every smaller
 * one. Ops that share a cache plane stay together, because a plane lives on one device: moving
 * activations costs a few rows a step, moving a cache would cost all of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "core/placement_private.h"

typedef struct planner {
  const cs_op_list *list;
  const cs_op_node *ops;
  const cs_value_info *values;
  cs_placement *out;
  cs_device *fallback;
  char (*reasons)[96];    /* (n_ops): why the primary does not run it */
  uint64_t *workspaces;   /* (n_ops): on the device that runs it */
  uint32_t *first_of_key; /* (n_values): the first cache value with the same key */
} planner;

/* A row of a norm is as long as its weight: heads (n, n_heads, width) with a weight (width) are
 * (n * n_heads, width). */
static void fold_heads(const cs_op_node *node, cs_tensor tensors[CS_MAX_OPERANDS]) {
  if (node->id != CS_OP_RMS_NORM) return;
  const uint64_t width = tensors[2].dims[0];
  for (uint32_t i = 0; i < node->n_operands; i++) {
    cs_tensor *t = &tensors[i];
    if (i == 2 || t->rank != 3 || t->dims[2] != width) continue;
    t->rank = 2;
    t->dims[0] *= t->dims[1];
    t->dims[1] = width;
    t->dims[2] = 0;
  }
}

void cs_op_describe(const cs_op_node *node, const cs_value_info *values,
                    cs_tensor tensors[CS_MAX_OPERANDS], cs_op *op) {
  for (uint32_t i = 0; i < node->n_operands; i++) {
    tensors[i] = (cs_tensor){.struct_size = sizeof tensors[i]};
    if (node->operands[i] == CS_VALUE_NONE) continue;
    const cs_value_info *value = &values[node->operands[i]];
    tensors[i].dtype = value->dtype;
    tensors[i].layout = value->layout;
    tensors[i].rank = value->rank;
    memcpy(tensors[i].dims, value->dims, sizeof tensors[i].dims);
  }
  fold_heads(node, tensors);
  *op = (cs_op){.struct_size = sizeof *op,
                .id = node->id,
                .n_operands = node->n_operands,
                .operand_stride = sizeof tensors[0],
                .operands = tensors,
                .params = node->params.struct_size ? &node->params : NULL};
}

/* ---- asking ---- */

/* A cache plane as the device would keep it: its layout and block size, room for as many tokens.
 * A device that keeps none is asked as the list has it, and says no. */
static void adapt_cache(cs_device *device, cs_tensor *tensor) {
  uint32_t layout = 0, block_tokens = 0;
  if (tensor->rank != 4) return;
  if (cs_device_kv_preference(device, tensor->dtype, tensor->dims[2], tensor->dims[3], &layout,
                              &block_tokens, NULL) != CS_OK) {
    return;
  }
  const uint64_t n_tokens = tensor->dims[0] * tensor->dims[1];
  tensor->layout = layout;
  tensor->dims[0] = (n_tokens + block_tokens - 1) / block_tokens;
  tensor->dims[1] = block_tokens;
}

/* Asks without the operands in `dropped`. A refusal told as CS_UNSUPPORTED instead of an answer
 * counts as a no. */
static cs_status ask_op(const cs_op_node *node, const cs_value_info *values, uint32_t dropped,
                        cs_device *device, cs_op_answer *answer, cs_error *error) {
  cs_tensor tensors[CS_MAX_OPERANDS];
  cs_op op;
  cs_op_describe(node, values, tensors, &op);
  for (uint32_t i = 0; i < node->n_operands; i++) {
    if (dropped & 1u << i) tensors[i] = (cs_tensor){.struct_size = sizeof tensors[i]};
    if (node->operands[i] == CS_VALUE_NONE) continue;
    if (values[node->operands[i]].kind == CS_VALUE_CACHE) adapt_cache(device, &tensors[i]);
  }
  const cs_status status = cs_device_op_query(device, &op, answer, error);
  if (status != CS_UNSUPPORTED) return status;
  answer->support = CS_SUPPORT_NO;
  return CS_OK;
}

static cs_status ask(const planner *p, size_t index, cs_device *device, cs_op_answer *answer,
                     cs_error *error) {
  const cs_op_node *node = &p->ops[index];
  const cs_status status = ask_op(node, p->values, 0, device, answer, error);
  if (status == CS_OK) return CS_OK;
  return cs_error_prefix(error, status, "op %zu %s", index, cs_op_name(node->id));
}

bool cs_device_runs(cs_device *device, const cs_op_list *list, size_t index, uint32_t dropped) {
  cs_op_answer answer = {0};
  return ask_op(&cs_op_list_ops(list)[index], cs_op_list_values(list), dropped, device, &answer,
                NULL) == CS_OK &&
         answer.support != CS_SUPPORT_NO;
}

static cs_status ask_primary(planner *p, cs_error *error) {
  for (size_t i = 0; i < p->out->n_ops; i++) {
    cs_op_answer answer = {0};
    const cs_status status = ask(p, i, p->out->devices[CS_PLACE_PRIMARY], &answer, error);
    if (status != CS_OK) return status;
    p->workspaces[i] = answer.workspace_bytes;
    if (answer.support != CS_SUPPORT_NO) continue;
    p->out->places[i] = CS_PLACE_FALLBACK;
    snprintf(p->reasons[i], sizeof p->reasons[i], "%s",
             answer.reason[0] ? answer.reason : "unsupported");
  }
  return CS_OK;
}

/* ---- caches keep their ops together ---- */

static void find_first_of_keys(planner *p) {
  const size_t n_values = cs_op_list_n_values(p->list);
  for (size_t v = 0; v < n_values; v++) {
    p->first_of_key[v] = (uint32_t)v;
    for (size_t u = 0; u < v && p->values[v].kind == CS_VALUE_CACHE; u++) {
      if (p->values[u].kind != CS_VALUE_CACHE || p->values[u].key != p->values[v].key) continue;
      p->first_of_key[v] = (uint32_t)u;
      break;
    }
  }
}

/* One pass: caches of ops that fall back are marked in `moved`, ops that use a marked cache fall
 * back too. Tells whether anything changed. */
static bool move_partners_once(planner *p, bool *moved) {
  bool changed = false;
  for (size_t i = 0; i < p->out->n_ops; i++) {
    const cs_op_node *node = &p->ops[i];
    for (uint32_t j = 0; j < node->n_operands; j++) {
      const cs_value v = node->operands[j];
      if (v == CS_VALUE_NONE || p->values[v].kind != CS_VALUE_CACHE) continue;
      bool *cache_moved = &moved[p->first_of_key[v]];
      if (p->out->places[i] == CS_PLACE_FALLBACK) {
        changed |= !*cache_moved;
        *cache_moved = true;
      } else if (*cache_moved) {
        p->out->places[i] = CS_PLACE_FALLBACK;
        snprintf(p->reasons[i], sizeof p->reasons[i], "its KV cache lives with another op");
        changed = true;
      }
    }
  }
  return changed;
}

static cs_status move_partners(planner *p, cs_error *error) {
  bool *moved = calloc(cs_op_list_n_values(p->list) + 1, sizeof *moved);
  if (!moved) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a placement");
  while (move_partners_once(p, moved)) {
  }
  free(moved);
  return CS_OK;
}

/* ---- the fallback's turn ---- */

static cs_status refuse(const planner *p, size_t index, const char *why, cs_error *error) {
  const cs_op_node *node = &p->ops[index];
  char layer[24] = "";
  if (node->layer >= 0) snprintf(layer, sizeof layer, " of layer %d", node->layer);
  cs_error_set(error, CS_UNSUPPORTED, "op %zu %s%s: %s says no: %s%s", index, cs_op_name(node->id),
               layer, cs_device_name(p->out->devices[CS_PLACE_PRIMARY]), p->reasons[index], why);
  if (error) error->op_index = (int32_t)index;
  return CS_UNSUPPORTED;
}

static cs_status ask_fallback(planner *p, cs_fallback_policy policy, cs_error *error) {
  for (size_t i = 0; i < p->out->n_ops; i++) {
    if (p->out->places[i] != CS_PLACE_FALLBACK) continue;
    if (policy == CS_FALLBACK_STRICT) return refuse(p, i, "; fallback is switched off", error);
    if (!p->fallback) return refuse(p, i, "; there is no device to fall back to", error);
    cs_op_answer answer = {0};
    const cs_status status = ask(p, i, p->fallback, &answer, error);
    if (status != CS_OK) return status;
    p->workspaces[i] = answer.workspace_bytes;
    if (answer.support != CS_SUPPORT_NO) continue;
    char why[160];
    snprintf(why, sizeof why, "; so does %s: %s", cs_device_name(p->fallback),
             answer.reason[0] ? answer.reason : "unsupported");
    return refuse(p, i, why, error);
  }
  return CS_OK;
}

static void sum_up(planner *p) {
  cs_placement *out = p->out;
  for (size_t i = 0; i < out->n_ops; i++) {
    const uint32_t place = out->places[i];
    if (p->workspaces[i] > out->workspace_bytes[place]) {
      out->workspace_bytes[place] = p->workspaces[i];
    }
    for (uint32_t j = 0; j < p->ops[i].n_operands; j++) {
      if (p->ops[i].operands[j] != CS_VALUE_NONE) {
        out->users[p->ops[i].operands[j]].mask |= 1u << place;
      }
    }
  }
  for (size_t v = 0; v < out->n_values; v++) {
    out->users[v].kind = p->values[v].kind;
    out->users[v].key = p->values[v].key;
  }
}

/* ---- report ---- */

static cs_fallback_entry *find_entry(cs_placement *out, uint32_t op_id) {
  for (size_t i = 0; i < out->n_fallbacks; i++) {
    if (out->fallbacks[i].op_id == op_id) return &out->fallbacks[i];
  }
  return NULL;
}

static void count_fallbacks(planner *p) {
  cs_placement *out = p->out;
  for (size_t i = 0; i < out->n_ops; i++) {
    if (out->places[i] != CS_PLACE_FALLBACK) continue;
    cs_fallback_entry *entry = find_entry(out, p->ops[i].id);
    if (!entry) {
      const size_t n = out->n_fallbacks++;
      memcpy(out->reasons[n], p->reasons[i], sizeof out->reasons[n]);
      entry = &out->fallbacks[n];
      *entry = (cs_fallback_entry){
          .op_id = p->ops[i].id, .device = cs_device_name(p->fallback), .reason = out->reasons[n]};
    }
    entry->count++;
  }
}

/* Bytes of one batch row of an activation; ops over several experts have several rows a token. */
static uint64_t row_bytes(const cs_value_info *value, uint64_t n_rows) {
  uint64_t n_elements = 1, bytes = 0;
  for (uint32_t i = 1; i < value->rank; i++)
    n_elements *= value->dims[i];
  if (cs_dtype_bytes(value->dtype, n_elements, &bytes) != CS_OK) return 0;
  const uint64_t rows_a_token = n_rows ? value->dims[0] / n_rows : 1;
  return bytes * (rows_a_token ? rows_a_token : 1);
}

/* Follows where each activation is current; every copy to the other device counts for the op
 * kind on the fallback that makes it necessary. */
static cs_status count_crossings(planner *p, cs_error *error) {
  typedef struct state {
    uint32_t current; /* bit CS_PLACE_* */
    uint32_t writer;  /* op id */
  } state;
  cs_placement *out = p->out;
  state *states = calloc(out->n_values + 1, sizeof *states);
  if (!states) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a placement");
  const cs_value first = out->n_ops ? p->ops[0].operands[0] : CS_VALUE_NONE;
  const uint64_t n_rows = first != CS_VALUE_NONE ? p->values[first].dims[0] : 0;
  for (size_t i = 0; i < out->n_ops; i++) {
    const cs_op_node *node = &p->ops[i];
    const uint32_t here = 1u << out->places[i];
    const uint32_t written = cs_op_written_operands(node->id);
    for (uint32_t j = 0; j < node->n_operands; j++) {
      const cs_value v = node->operands[j];
      if (v == CS_VALUE_NONE || written & 1u << j || !states[v].current) continue;
      if (states[v].current & here) continue;
      const uint32_t blamed = here == 1u << CS_PLACE_FALLBACK ? node->id : states[v].writer;
      cs_fallback_entry *entry = find_entry(out, blamed);
      if (entry) entry->bytes_a_row += row_bytes(&p->values[v], n_rows);
      states[v].current |= here;
    }
    for (uint32_t j = 0; j < node->n_operands; j++) {
      const cs_value v = node->operands[j];
      if (v == CS_VALUE_NONE || !(written & 1u << j)) continue;
      if (p->values[v].kind == CS_VALUE_CACHE) continue;
      states[v] = (state){here, node->id};
    }
  }
  free(states);
  return CS_OK;
}

static void warn(const cs_placement *placement) {
  cs_device *primary = placement->devices[CS_PLACE_PRIMARY];
  for (size_t i = 0; i < placement->n_fallbacks; i++) {
    const cs_fallback_entry *entry = &placement->fallbacks[i];
    cs_log_write(cs_runtime_log(cs_device_runtime(primary)), CS_LOG_WARN,
                 "%s x%u runs on %s, not on %s (%s); %llu bytes a row cross",
                 cs_op_name(entry->op_id), entry->count, entry->device, cs_device_name(primary),
                 entry->reason, (unsigned long long)entry->bytes_a_row);
  }
}

/* ---- life ---- */

static cs_status allocate(planner *p, cs_error *error) {
  cs_placement *out = p->out;
  out->places = calloc(out->n_ops + 1, sizeof *out->places);
  out->users = calloc(out->n_values + 1, sizeof *out->users);
  out->fallbacks = calloc(CS_OP_LIMIT, sizeof *out->fallbacks);
  out->reasons = calloc(CS_OP_LIMIT, sizeof *out->reasons);
  p->reasons = calloc(out->n_ops + 1, sizeof *p->reasons);
  p->workspaces = calloc(out->n_ops + 1, sizeof *p->workspaces);
  p->first_of_key = calloc(out->n_values + 1, sizeof *p->first_of_key);
  if (out->places && out->users && out->fallbacks && out->reasons && p->reasons && p->workspaces &&
      p->first_of_key) {
    return CS_OK;
  }
  return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a placement");
}

static cs_status place(planner *p, cs_fallback_policy policy, cs_error *error) {
  cs_status status = allocate(p, error);
  if (status == CS_OK) status = ask_primary(p, error);
  if (status == CS_OK) find_first_of_keys(p);
  if (status == CS_OK) status = move_partners(p, error);
  if (status == CS_OK) status = ask_fallback(p, policy, error);
  if (status != CS_OK) return status;
  sum_up(p);
  count_fallbacks(p);
  return count_crossings(p, error);
}

cs_status cs_placement_create(const cs_op_list *largest, cs_device *primary, cs_device *fallback,
                              cs_fallback_policy policy, cs_placement **out, cs_error *error) {
  *out = NULL;
  if (!largest || !primary || cs_op_list_n_ops(largest) == 0) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a placement needs ops and a device");
  }
  cs_placement *placement = calloc(1, sizeof *placement);
  if (!placement) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a placement");
  placement->n_ops = cs_op_list_n_ops(largest);
  placement->n_values = cs_op_list_n_values(largest);
  placement->devices[CS_PLACE_PRIMARY] = primary;
  cs_device_retain(primary);
  planner p = {.list = largest,
               .ops = cs_op_list_ops(largest),
               .values = cs_op_list_values(largest),
               .out = placement,
               .fallback = fallback == primary ? NULL : fallback};
  const cs_status status = place(&p, policy, error);
  free(p.reasons);
  free(p.workspaces);
  free(p.first_of_key);
  if (status != CS_OK) {
    cs_placement_destroy(placement);
    return status;
  }
  if (placement->n_fallbacks > 0) {
    placement->devices[CS_PLACE_FALLBACK] = fallback;
    cs_device_retain(fallback);
  }
  if (policy == CS_FALLBACK_WARN) warn(placement);
  *out = placement;
  return CS_OK;
}

void cs_placement_destroy(cs_placement *placement) {
  if (!placement) return;
  cs_device_release(placement->devices[CS_PLACE_PRIMARY]);
  cs_device_release(placement->devices[CS_PLACE_FALLBACK]);
  free(placement->places);
  free(placement->users);
  free(placement->fallbacks);
  free(placement->reasons);
  free(placement);
}

cs_device *cs_placement_device(const cs_placement *placement, size_t op_index) {
  if (op_index >= placement->n_ops) return NULL;
  return placement->devices[placement->places[op_index]];
}

uint32_t cs_placement_users(const cs_placement *placement, cs_value_kind kind, uint32_t key) {
  uint32_t mask = 0;
  for (size_t v = 0; v < placement->n_values; v++) {
    const cs_value_users *users = &placement->users[v];
    if (users->kind == kind && users->key == key) mask |= users->mask;
  }
  return mask;
}

size_t cs_placement_n_fallbacks(const cs_placement *placement) {
  return placement->n_fallbacks;
}

const cs_fallback_entry *cs_placement_fallbacks(const cs_placement *placement) {
  return placement->fallbacks;
}
