/* A slot holds everything that one piece needs on the device at fixed addresses, so that two
 * pieces can be under way: while one is on its way out of the device the next is being gathered.
 * Devices whose memory the host can reach save the copy between wire buffer and staging. Without
 * the op, whole blocks are copied and the host (wire.c) does the rest. */
#include "scheduler/transfer_port.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/wire.h"

typedef struct port_slot {
  cs_buffer *wire; /* all device buffers are NULL without the op */
  cs_buffer *sum;
  cs_buffer *table;
  cs_buffer *range;
  cs_buffer *staging; /* NULL where the host reaches `wire` */
  cs_buffer *target;  /* of this use: where gathered bytes go instead of to the host; or NULL */
  cs_buffer *source;  /* of this use: where scattered bytes lie instead of in `wire`; or NULL */
  uint8_t *wire_host; /* staging, or `wire` itself, or host_bytes */
  uint8_t *host_bytes;
  uint8_t *blocks_host; /* without the op: raw blocks of K, then of V */
  int32_t *table_host;
  int32_t range_host[2];
  uint64_t sum_host;
  uint64_t value;      /* of the port's semaphore when the slot is done */
  uint64_t generation; /* of the port's stream when it was enqueued */
  cs_port_range asked; /* without its block table */
} port_slot;

struct cs_port {
  cs_kv_cache *cache; /* borrowed */
  cs_device *device;  /* retained */
  uint32_t op;
  bool has_op;
  cs_kv_wire wire;
  uint32_t max_tokens;
  uint32_t max_blocks;
  uint64_t wire_bytes;
  cs_stream *stream;
  cs_semaphore *semaphore;
  uint64_t value;
  uint64_t generation; /* counts streams: a failure poisons one, and the next piece gets another */
  bool poisoned;
  cs_buffer *workspace;
  port_slot slots[CS_PORT_SLOTS];
};

/* ---- making ---- */

static cs_wire_plane plane_of(const cs_port *port, uint32_t v) {
  const cs_cache_form *const form = cs_kv_cache_form(port->cache);
  return (cs_wire_plane){.dtype = form->wire.dtype,
                         .layout = form->layout,
                         .block_tokens = form->block_tokens,
                         .n_heads = form->wire.n_kv_heads,
                         .width = v ? form->wire.v_width : form->wire.k_width};
}

static cs_tensor flat_tensor(cs_buffer *buffer, uint32_t dtype, uint32_t rank, uint64_t dim0,
                             uint64_t dim1) {
  return (cs_tensor){.struct_size = sizeof(cs_tensor),
                     .dtype = dtype,
                     .layout = CS_LAYOUT_PLAIN,
                     .rank = rank,
                     .memory = buffer ? cs_buffer_memory(buffer) : NULL,
                     .dims = {dim0, dim1}};
}

/* The operands of gather and scatter alike; without memory when `slot` is NULL. */
static void fill_operands(const cs_port *port, const port_slot *slot, uint32_t layer,
                          cs_tensor operands[6]) {
  cs_buffer *const wire = !slot ? NULL : slot->source ? slot->source : slot->wire;
  uint64_t wire_bytes = port->wire_bytes;
  if (wire && cs_buffer_bytes(wire) < wire_bytes) wire_bytes = cs_buffer_bytes(wire);
  /* int8: bytes, scales included (kv.h) */
  const uint64_t n_elements = wire_bytes / cs_wire_element_bytes(port->wire.dtype);
  operands[0] = flat_tensor(wire, port->wire.dtype, 1, n_elements, 0);
  operands[1] = flat_tensor(slot ? slot->sum : NULL, CS_DTYPE_U64, 1, 1, 0);
  cs_kv_cache_tensor(port->cache, layer, 0, &operands[2]);
  cs_kv_cache_tensor(port->cache, layer, 1, &operands[3]);
  operands[4] = flat_tensor(slot ? slot->table : NULL, CS_DTYPE_I32, 2, 1, port->max_blocks);
  operands[5] = flat_tensor(slot ? slot->range : NULL, CS_DTYPE_I32, 1, 2, 0);
  if (!slot) operands[2].memory = operands[3].memory = NULL;
}

static cs_status query_op(cs_port *port, cs_error *error) {
  const cs_cache_form *const form = cs_kv_cache_form(port->cache);
  uint32_t layer = 0; /* any that lives here */
  while (layer + 1 < form->wire.n_layers && cs_kv_cache_device(port->cache, layer) != port->device)
    layer++;
  cs_tensor operands[6];
  fill_operands(port, NULL, layer, operands);
  const cs_op op = {.struct_size = sizeof op,
                    .id = port->op,
                    .n_operands = 6,
                    .operand_stride = sizeof operands[0],
                    .operands = operands};
  cs_op_answer answer = {.struct_size = sizeof answer};
  const cs_status status = cs_device_op_query(port->device, &op, &answer, error);
  if (status) return status;
  port->has_op = answer.support != CS_SUPPORT_NO;
  if (!port->has_op || answer.workspace_bytes == 0) return CS_OK;
  return cs_buffer_create(port->device, answer.workspace_bytes, CS_MEMORY_DEVICE, &port->workspace,
                          error);
}

static cs_status create_device_slot(cs_port *port, port_slot *slot, cs_error *error) {
  const struct {
    cs_buffer **buffer;
    uint64_t bytes;
  } wanted[] = {{&slot->wire, port->wire_bytes},
                {&slot->sum, sizeof(uint64_t)},
                {&slot->table, port->max_blocks * sizeof(int32_t)},
                {&slot->range, 2 * sizeof(int32_t)}};
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
    const cs_status status =
        cs_buffer_create(port->device, wanted[i].bytes, CS_MEMORY_DEVICE, wanted[i].buffer, error);
    if (status) return status;
  }
  slot->wire_host = cs_buffer_host_pointer(slot->wire);
  if (slot->wire_host) return CS_OK;
  const cs_status status =
      cs_buffer_create(port->device, port->wire_bytes, CS_MEMORY_STAGING, &slot->staging, error);
  if (!status) slot->wire_host = cs_buffer_host_pointer(slot->staging);
  return status;
}

/* Raw blocks that n_tokens may touch: one more than they fill, as they may begin inside one. */
static size_t touched_blocks(const cs_port *port, uint32_t n_tokens) {
  const uint32_t block_tokens = cs_kv_cache_form(port->cache)->block_tokens;
  return (size_t)(n_tokens + block_tokens - 1) / block_tokens + 1;
}

static cs_status create_host_slot(cs_port *port, port_slot *slot, cs_error *error) {
  const cs_wire_plane k = plane_of(port, 0), v = plane_of(port, 1);
  const size_t n_blocks = touched_blocks(port, port->max_tokens);
  slot->host_bytes = malloc(port->wire_bytes);
  slot->blocks_host = malloc(n_blocks * (cs_wire_block_bytes(&k) + cs_wire_block_bytes(&v)));
  slot->wire_host = slot->host_bytes;
  if (slot->host_bytes && slot->blocks_host) return CS_OK;
  return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV staging");
}

static cs_status create_slot(cs_port *port, port_slot *slot, cs_error *error) {
  slot->table_host = malloc(port->max_blocks * sizeof *slot->table_host);
  if (!slot->table_host)
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a block table");
  return port->has_op ? create_device_slot(port, slot, error) : create_host_slot(port, slot, error);
}

static cs_status open_stream(cs_port *port, cs_error *error) {
  cs_stream_destroy(port->stream);
  if (port->semaphore) cs_semaphore_release(port->semaphore);
  port->stream = NULL;
  port->semaphore = NULL;
  port->value = 0;
  port->generation++;
  cs_status status = cs_stream_create(port->device, &port->stream, error);
  if (!status) status = cs_semaphore_create(port->device, 0, &port->semaphore, error);
  port->poisoned = status != CS_OK;
  return status;
}

static cs_status port_init(cs_port *port, cs_error *error) {
  const uint32_t dtype = cs_kv_cache_form(port->cache)->wire.dtype;
  if (!port->has_op && !cs_wire_can_convert(dtype, port->wire.dtype))
    return cs_error_set(error, CS_UNSUPPORTED, "the KV cache cannot be converted");
  cs_status status = open_stream(port, error);
  for (uint32_t i = 0; i < CS_PORT_SLOTS && !status; i++)
    status = create_slot(port, &port->slots[i], error);
  return status;
}

cs_status cs_port_create(const cs_port_options *options, cs_port **out, cs_error *error) {
  *out = NULL;
  cs_port *const port = calloc(1, sizeof *port);
  if (!port) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  cs_device_retain(options->device);
  *port = (cs_port){.cache = options->cache,
                    .device = options->device,
                    .op = options->op,
                    .wire = cs_kv_cache_form(options->cache)->wire,
                    .max_tokens = options->max_tokens,
                    .max_blocks = options->max_blocks};
  port->wire.dtype = options->wire_dtype;
  cs_status status = cs_wire_bytes(&port->wire, options->max_tokens, &port->wire_bytes);
  if (status) status = cs_error_set(error, status, "pieces of %u tokens", options->max_tokens);
  if (!status && !options->on_host) status = query_op(port, error);
  if (!status) status = port_init(port, error);
  if (status) {
    cs_port_destroy(port);
    return cs_error_prefix(error, status, "KV transfer");
  }
  *out = port;
  return CS_OK;
}

void cs_port_destroy(cs_port *port) {
  if (!port) return;
  cs_stream_destroy(port->stream);
  if (port->semaphore) cs_semaphore_release(port->semaphore);
  for (uint32_t i = 0; i < CS_PORT_SLOTS; i++) {
    port_slot *const slot = &port->slots[i];
    cs_buffer_destroy(slot->wire);
    cs_buffer_destroy(slot->sum);
    cs_buffer_destroy(slot->table);
    cs_buffer_destroy(slot->range);
    cs_buffer_destroy(slot->staging);
    free(slot->host_bytes);
    free(slot->blocks_host);
    free(slot->table_host);
  }
  cs_buffer_destroy(port->workspace);
  cs_device_release(port->device);
  free(port);
}

cs_device *cs_port_device(const cs_port *port) {
  return port->device;
}

uint32_t cs_port_wire_dtype(const cs_port *port) {
  return port->wire.dtype;
}

bool cs_port_has_op(const cs_port *port) {
  return port->has_op;
}

uint64_t cs_port_wire_bytes(const cs_port *port) {
  return port->wire_bytes;
}

/* ---- moving ---- */

static uint64_t piece_bytes(const cs_port *port, uint32_t n_tokens) {
  uint64_t bytes = 0;
  (void)cs_wire_bytes(&port->wire, n_tokens, &bytes); /* at most wire_bytes, computed before */
  return bytes;
}

static cs_status check_range(const cs_port *port, const cs_port_range *range, cs_error *error) {
  const uint32_t block_tokens = cs_kv_cache_form(port->cache)->block_tokens;
  const uint64_t end = (uint64_t)range->first_token + range->n_tokens;
  if (range->n_tokens == 0 || range->n_tokens > port->max_tokens ||
      range->n_blocks > port->max_blocks || end > (uint64_t)range->n_blocks * block_tokens)
    return cs_error_set(error, CS_OUT_OF_RANGE, "KV piece of tokens %u to %llu: out of range",
                        range->first_token, (unsigned long long)end - 1);
  return CS_OK;
}

/* Table and range to the device. */
static cs_status enqueue_range(cs_port *port, port_slot *slot, const cs_port_range *range,
                               cs_error *error) {
  for (uint32_t i = 0; i < port->max_blocks; i++)
    slot->table_host[i] = i < range->n_blocks ? range->blocks[i] : -1;
  slot->range_host[0] = (int32_t)range->first_token;
  slot->range_host[1] = (int32_t)range->n_tokens;
  const cs_status status = cs_stream_upload(port->stream, slot->table, 0, slot->table_host,
                                            port->max_blocks * sizeof *slot->table_host, error);
  if (status) return status;
  return cs_stream_upload(port->stream, slot->range, 0, slot->range_host, sizeof slot->range_host,
                          error);
}

static cs_status enqueue_op(cs_port *port, port_slot *slot, uint32_t layer, cs_error *error) {
  cs_tensor operands[6];
  fill_operands(port, slot, layer, operands);
  const cs_op op = {.struct_size = sizeof op,
                    .id = port->op,
                    .n_operands = 6,
                    .operand_stride = sizeof operands[0],
                    .operands = operands};
  const cs_status status = cs_stream_ops(port->stream, &op, 1, port->workspace, error);
  if (status) return status;
  return cs_stream_download(port->stream, &slot->sum_host, slot->sum, 0, sizeof slot->sum_host,
                            error);
}

/* Copies the raw blocks that the range touches between the cache and slot->blocks_host. */
static cs_status enqueue_blocks(cs_port *port, port_slot *slot, const int32_t *blocks, bool to_host,
                                cs_error *error) {
  const uint32_t block_tokens = cs_kv_cache_form(port->cache)->block_tokens;
  const uint32_t first = slot->asked.first_token / block_tokens;
  const uint32_t last = (slot->asked.first_token + slot->asked.n_tokens - 1) / block_tokens;
  uint8_t *host = slot->blocks_host;
  for (uint32_t v = 0; v < 2; v++) {
    const cs_wire_plane plane = plane_of(port, v);
    const uint64_t bytes = cs_wire_block_bytes(&plane);
    cs_buffer *const buffer = cs_kv_cache_buffer(port->cache, slot->asked.layer, v);
    for (uint32_t i = first; i <= last && bytes > 0; i++, host += bytes) {
      const uint64_t offset = (uint64_t)blocks[i] * bytes;
      const cs_status status =
          to_host ? cs_stream_download(port->stream, host, buffer, offset, bytes, error)
                  : cs_stream_upload(port->stream, buffer, offset, host, bytes, error);
      if (status) return status;
    }
  }
  return CS_OK;
}

/* Between slot->blocks_host and slot->wire_host. */
static void convert_blocks(cs_port *port, port_slot *slot, bool to_wire) {
  const cs_wire_plane k = plane_of(port, 0), v = plane_of(port, 1);
  const uint32_t first = slot->asked.first_token % k.block_tokens;
  const uint32_t n = slot->asked.n_tokens;
  const size_t n_blocks = (first + n + k.block_tokens - 1) / k.block_tokens;
  uint8_t *const k_blocks = slot->blocks_host;
  uint8_t *const v_blocks = k_blocks + n_blocks * cs_wire_block_bytes(&k);
  uint8_t *const k_wire = slot->wire_host;
  uint8_t *const v_wire =
      k_wire + (size_t)n * k.n_heads * (size_t)cs_wire_row_bytes(port->wire.dtype, k.width);
  if (to_wire) {
    cs_wire_gather(&k, k_blocks, first, n, port->wire.dtype, k_wire);
    cs_wire_gather(&v, v_blocks, first, n, port->wire.dtype, v_wire);
  } else {
    cs_wire_scatter(&k, k_blocks, first, n, port->wire.dtype, k_wire);
    cs_wire_scatter(&v, v_blocks, first, n, port->wire.dtype, v_wire);
  }
}

static cs_status begin_slot(cs_port *port, port_slot *slot, const cs_port_range *range,
                            cs_error *error) {
  cs_status status = check_range(port, range, error);
  if (!status && port->poisoned) status = open_stream(port, error);
  if (status) return status;
  slot->asked = *range;
  slot->asked.blocks = NULL;
  slot->target = NULL;
  slot->source = NULL;
  slot->generation = port->generation;
  return CS_OK;
}

/* What every enqueueing ends with, well or not. */
static cs_status end_slot(cs_port *port, port_slot *slot, cs_status status, cs_error *error) {
  slot->value = port->value + 1;
  if (!status) status = cs_stream_signal(port->stream, port->semaphore, slot->value, error);
  if (status)
    port->poisoned = true;
  else
    port->value = slot->value;
  return status;
}

static cs_status wait_slot(cs_port *port, const port_slot *slot, uint64_t timeout_us,
                           cs_error *error) {
  if (slot->generation != port->generation)
    return cs_error_set(error, CS_FAILED, "interrupted by the failure of another piece");
  const cs_status status = cs_semaphore_wait(port->semaphore, slot->value, timeout_us, error);
  if (status) port->poisoned = true;
  return status;
}

static cs_status enqueue_gather(cs_port *port, port_slot *slot, const cs_port_range *range,
                                cs_semaphore *after, uint64_t value, cs_error *error) {
  cs_status status = cs_stream_wait(port->stream, after, value, error);
  if (status) return status;
  if (!port->has_op) return enqueue_blocks(port, slot, range->blocks, true, error);
  status = enqueue_range(port, slot, range, error);
  if (!status) status = enqueue_op(port, slot, range->layer, error);
  if (!status && slot->target)
    status = cs_stream_peer_copy(port->stream, slot->target, 0, slot->wire, 0,
                                 piece_bytes(port, range->n_tokens), error);
  else if (!status && slot->staging)
    status = cs_stream_download(port->stream, slot->wire_host, slot->wire, 0,
                                piece_bytes(port, range->n_tokens), error);
  return status;
}

cs_status cs_port_gather(cs_port *port, uint32_t index, const cs_port_range *range,
                         cs_semaphore *after, uint64_t value, cs_buffer *target, cs_error *error) {
  port_slot *const slot = &port->slots[index];
  cs_status status = begin_slot(port, slot, range, error);
  if (status) return status;
  slot->target = target;
  status = enqueue_gather(port, slot, range, after, value, error);
  return end_slot(port, slot, status, error);
}

cs_status cs_port_finish_gather(cs_port *port, uint32_t index, uint64_t timeout_us,
                                const void **wire, uint64_t *sum, cs_error *error) {
  port_slot *const slot = &port->slots[index];
  const cs_status status = wait_slot(port, slot, timeout_us, error);
  if (status) return cs_error_prefix(error, status, "KV gather");
  if (!port->has_op) {
    convert_blocks(port, slot, true);
    slot->sum_host = cs_wire_sum(slot->wire_host, piece_bytes(port, slot->asked.n_tokens));
  }
  *wire = slot->target ? NULL : slot->wire_host;
  *sum = slot->sum_host;
  return CS_OK;
}

/* Blocks at the edges may hold other tokens of the sequence, so they are read first. */
static cs_status scatter_on_host(cs_port *port, port_slot *slot, const int32_t *blocks,
                                 uint64_t timeout_us, cs_error *error) {
  cs_status status = enqueue_blocks(port, slot, blocks, true, error);
  if (!status) status = cs_stream_synchronize(port->stream, timeout_us, error);
  if (status) return status;
  slot->sum_host = cs_wire_sum(slot->wire_host, piece_bytes(port, slot->asked.n_tokens));
  convert_blocks(port, slot, false);
  return enqueue_blocks(port, slot, blocks, false, error);
}

static cs_status enqueue_scatter(cs_port *port, port_slot *slot, const cs_port_range *range,
                                 uint64_t timeout_us, cs_error *error) {
  if (!port->has_op) return scatter_on_host(port, slot, range->blocks, timeout_us, error);
  cs_status status = CS_OK;
  if (slot->staging && !slot->source)
    status = cs_stream_upload(port->stream, slot->wire, 0, slot->wire_host,
                              piece_bytes(port, range->n_tokens), error);
  if (!status) status = enqueue_range(port, slot, range, error);
  if (!status) status = enqueue_op(port, slot, range->layer, error);
  return status;
}

cs_status cs_port_scatter(cs_port *port, uint32_t index, const cs_port_range *range,
                          const void *wire, cs_buffer *source, uint64_t timeout_us,
                          cs_error *error) {
  port_slot *const slot = &port->slots[index];
  cs_status status = begin_slot(port, slot, range, error);
  if (status) return status;
  slot->source = source;
  if (!source) memcpy(slot->wire_host, wire, piece_bytes(port, range->n_tokens));
  status = enqueue_scatter(port, slot, range, timeout_us, error);
  return end_slot(port, slot, status, error);
}

cs_status cs_port_finish_scatter(cs_port *port, uint32_t index, uint64_t timeout_us, uint64_t *sum,
                                 cs_error *error) {
  port_slot *const slot = &port->slots[index];
  const cs_status status = wait_slot(port, slot, timeout_us, error);
  if (status) return cs_error_prefix(error, status, "KV scatter");
  *sum = slot->sum_host;
  return CS_OK;
}
