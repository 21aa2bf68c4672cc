/* Helpers for those who write a plugin: the parts of the contract that do not depend on the chip.
 * A static library linked into the plugin (consort-sdk); a plugin may use all, some or none.
 *
 *   timeline   the semaphore of the ABI, for drivers without one
 *   queue      the stream of the ABI, for drivers that cannot wait before a signal: a thread takes
 *              commands in order and submits each when its waits are over (deferred submission)
 *   ops        a deep, checked copy of an op list, to enqueue or to replay
 *   checks     of operands, with the reason in words
 *
 * consort/sdk_driver.h puts them together to whole tables.
 */
#ifndef CONSORT_SDK_H
#define CONSORT_SDK_H

#include <stdbool.h>
#include <stddef.h>

#include "consort/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors and structs ---- */

/* Fills *error (may be NULL; never past its struct_size) and returns code. */
cs_status cs_sdk_error(cs_error *error, cs_status code, int64_t vendor_code, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

/* The size rule of docs/abi.md: copies a struct from the other side into *to of to_bytes, zeroing
 * what the sender does not know and setting struct_size to to_bytes; CS_UNSUPPORTED when it has
 * non-zero bytes beyond to_bytes. */
cs_status cs_sdk_struct_read(void *to, uint32_t to_bytes, const void *from, cs_error *error);

/* The same rule for an output: writes at most the size in the receiver's struct_size, leaves that
 * field as it is. `from` is a whole struct of from_bytes as this side knows it. */
void cs_sdk_struct_write(void *to, const void *from, uint32_t from_bytes);

/* Picks the ABI version and fills *plugin; `table` as in cs_plugin. For cs_plugin_query. */
cs_status cs_sdk_query(const cs_host *host, cs_plugin *plugin, const char *name,
                       const char *version, const char *vendor,
                       const void *(*table)(uint32_t id, uint32_t revision));

/* ---- memory ---- */

/* Makes an array of the host's hold `wanted` bytes, and room for as much again; the first `used`
 * stay. false when out of memory: nothing has changed then. */
bool cs_sdk_grow(const cs_host *host, void **array, uint64_t used_bytes, uint64_t wanted_bytes,
                 uint64_t *capacity_bytes);

/* For memory_import: whether the handle is a file of at least `bytes` bytes, which is not 0. */
cs_status cs_sdk_check_import(uint32_t type, int64_t handle, uint64_t bytes, cs_error *error);

/* ---- tensors ---- */

/* Rows and elements a row, by the rule of cs_tensor (rank 1 is one row). */
uint64_t cs_sdk_tensor_rows(const cs_tensor *tensor);
uint64_t cs_sdk_tensor_columns(const cs_tensor *tensor);
/* Bytes of n contiguous elements; 0 for an unknown dtype or a broken block. */
uint64_t cs_sdk_dtype_bytes(uint32_t dtype, uint64_t n);
/* Bytes of one row, the scales of a KV plane (kv.h) included; 0 as in cs_sdk_dtype_bytes. */
uint64_t cs_sdk_tensor_row_bytes(const cs_tensor *tensor);
/* Bytes from one row to the next, the dense distance where row_stride_bytes is 0. */
uint64_t cs_sdk_tensor_stride(const cs_tensor *tensor);
/* Bytes of the unit that offsets and strides are whole multiples of: an element, or one byte of a
 * block format. */
uint64_t cs_sdk_dtype_unit(uint32_t dtype);

/* ---- checks ---- */

#define CS_SDK_REASON_BYTES 96 /* of `reason` below: what cs_op_answer.reason holds */

/* Writes a reason and returns false. */
bool cs_sdk_refuse(char *reason, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whether a plain operand has one of the dtypes (a mask of CS_DTYPE_BIT) and (rows, columns) whole
 * elements in rows that do not overlap, extents and columns below 2^31; `reason` names it and says
 * why not. */
bool cs_sdk_check_tensor(const cs_tensor *tensor, const char *name, uint64_t dtypes, uint64_t rows,
                         uint64_t columns, char *reason);
/* The same for `columns` contiguous elements, however they are cut into rows. */
bool cs_sdk_check_vector(const cs_tensor *tensor, const char *name, uint64_t dtypes,
                         uint64_t columns, char *reason);
/* Whether a tensor that was checked before lies within memory of so many bytes. */
bool cs_sdk_check_window(const cs_tensor *tensor, const char *name, uint64_t memory_bytes,
                         char *reason);

/* A plane of the KV cache: extents, and distances in elements. */
typedef struct cs_sdk_kv_plane {
  uint64_t n_blocks, block_tokens, n_heads, width;
  uint64_t block_stride, head_stride, token_stride;
} cs_sdk_kv_plane;

/* The cache operands k_v[0] and k_v[1], of the dtypes: (blocks, tokens, heads, width), token-major
 * or head-major, blocks of 16, 32, 64 or 128 tokens that are whole halves, rows of int8 that are
 * whole words; both with the same blocks and heads in one dtype. An absent V has width 0. */
bool cs_sdk_check_kv_planes(const cs_tensor *k_v, uint64_t dtypes, cs_sdk_kv_plane *k,
                            cs_sdk_kv_plane *v, char *reason);

/* What kv_gather and kv_scatter move. */
typedef struct cs_sdk_kv_move {
  cs_sdk_kv_plane k, v;
  uint64_t token_bytes; /* of a token on the wire: whole halves */
  uint64_t wire_tokens, table_blocks;
  uint32_t wire_dtype, reserved; /* never U8 */
} cs_sdk_kv_move;

/* All operands of a kv_gather or kv_scatter. */
bool cs_sdk_check_kv_move(const cs_op *op, uint64_t dtypes, cs_sdk_kv_move *out, char *reason);

/* ---- timeline ---- */

typedef struct cs_sdk_timeline cs_sdk_timeline;

cs_sdk_timeline *cs_sdk_timeline_create(const cs_host *host, uint64_t initial);
void cs_sdk_timeline_destroy(cs_sdk_timeline *timeline);
cs_status cs_sdk_timeline_query(cs_sdk_timeline *timeline, uint64_t *value, cs_error *error);
cs_status cs_sdk_timeline_wait(cs_sdk_timeline *timeline, uint64_t value, uint64_t timeout_us,
                               cs_error *error);
cs_status cs_sdk_timeline_signal(cs_sdk_timeline *timeline, uint64_t value);
/* Stores the first reason given; later ones change nothing. */
cs_status cs_sdk_timeline_fail(cs_sdk_timeline *timeline, const cs_error *reason);
/* For who signals later, from another thread: keeps the timeline alive past its destruction. */
void cs_sdk_timeline_retain(cs_sdk_timeline *timeline);
void cs_sdk_timeline_release(cs_sdk_timeline *timeline);

/* ---- queue ---- */

typedef struct cs_sdk_queue cs_sdk_queue;

/* A command: runs on the queue's thread, in order. `payload` is the queue's copy. A failure
 * poisons the queue with its error. */
typedef cs_status (*cs_sdk_command)(void *context, void *payload, cs_error *error);

typedef struct cs_sdk_queue_options {
  void *context; /* first argument of every command */
  /* Optional: called before a signal is given; returns when everything the commands handed to the
   * driver is done and visible. */
  cs_status (*drain)(void *context, cs_error *error);
  /* Optional: frees what a payload owns, after the command or when it is dropped. */
  void (*release)(void *context, cs_sdk_command command, void *payload);
  /* Optional: called once on the queue's thread before its first command. */
  void (*start)(void *context);
  /* Optional: called last, from whichever thread, when nothing uses context any more: frees it. */
  void (*finish)(void *context);
  /* Optional: asks the driver to give the timeline `value` when everything before is done, and
   * returns at once, so that the queue goes on; the driver's callback signals or fails the
   * timeline, which `signal` has retained. `drain` is then called only before a failure is told. */
  cs_status (*signal)(void *context, cs_sdk_timeline *timeline, uint64_t value, cs_error *error);
} cs_sdk_queue_options;

/* NULL when memory or threads are exhausted; `finish` has then not been called. */
cs_sdk_queue *cs_sdk_queue_create(const cs_host *host, const cs_sdk_queue_options *options);
/* Drops commands that have not started and fails the timelines of dropped signals with
 * CS_CANCELLED; waits up to 2 s for the command that has started. If that one takes longer, the
 * queue frees itself when it ends. NULL is fine. */
void cs_sdk_queue_destroy(cs_sdk_queue *queue);
/* Copies payload_bytes (at most 64 KiB) and returns at once. CS_OUT_OF_MEMORY or the poison; on
 * failure `release` is not called. Waits and signals are accepted on a poisoned queue: a signal
 * fails its timeline with the poison. Both keep the timeline alive until they are done. */
cs_status cs_sdk_queue_push(cs_sdk_queue *queue, cs_sdk_command command, const void *payload,
                            size_t payload_bytes, cs_error *error);
cs_status cs_sdk_queue_wait(cs_sdk_queue *queue, cs_sdk_timeline *timeline, uint64_t value,
                            cs_error *error);
cs_status cs_sdk_queue_signal(cs_sdk_queue *queue, cs_sdk_timeline *timeline, uint64_t value,
                              cs_error *error);

/* ---- times of ops, for the profile table ---- */

/* A stream's; shared by reference count between the stream and what it has still to run. */
typedef struct cs_sdk_op_log cs_sdk_op_log;

cs_sdk_op_log *cs_sdk_op_log_create(const cs_host *host); /* off; NULL when out of memory */
void cs_sdk_op_log_retain(cs_sdk_op_log *log);
void cs_sdk_op_log_release(cs_sdk_op_log *log);
void cs_sdk_op_log_enable(cs_sdk_op_log *log, uint32_t on);
/* Around each op, on the thread that runs it, when the op is over as `end` is called. `begin` is 0
 * while the log is off, and `end` then does nothing. Nanoseconds of the monotonic clock. */
uint64_t cs_sdk_op_log_begin(cs_sdk_op_log *log);
void cs_sdk_op_log_end(cs_sdk_op_log *log, uint32_t op_id, uint64_t begin_ns);
/* A record by the device's own clock, in the place of both; begin still says whether it is on. */
void cs_sdk_op_log_add(cs_sdk_op_log *log, uint32_t op_id, uint64_t begin_ns, uint64_t end_ns);
/* As stream_profile_read; returns how many records were given. */
uint32_t cs_sdk_op_log_read(cs_sdk_op_log *log, cs_op_time *out, uint32_t capacity,
                            uint32_t stride);

/* ---- ops ---- */

/* "matmul" for CS_OP_MATMUL; "?" outside the op table. */
const char *cs_sdk_op_name(uint32_t id);

/* A copy of an op list, normalised to this header's struct sizes, shared by reference count. */
typedef struct cs_sdk_ops {
  uint32_t n_ops;
  const cs_op *ops; /* operands and params point into the same allocation; params are never
                       NULL for an op that has them */
} cs_sdk_ops;

/* Checks ids, operand counts, ranks, that params are there, and struct sizes; the error's op_index
 * names the op. The result starts with one reference. */
cs_status cs_sdk_ops_create(const cs_host *host, const cs_op *ops, uint32_t n_ops,
                            uint32_t op_stride, cs_sdk_ops **out, cs_error *error);
void cs_sdk_ops_retain(cs_sdk_ops *ops);
void cs_sdk_ops_release(cs_sdk_ops *ops);

#ifdef __cplusplus
}
#endif

#endif
