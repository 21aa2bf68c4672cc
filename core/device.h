/* The checked front door: everything above core reaches a plugin through these calls and never
 * through a table. Arguments are checked once, here; a plugin sees only legal calls. */
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "core/runtime.h"

typedef struct cs_device cs_device;       /* shared: retain and release */
typedef struct cs_buffer cs_buffer;       /* owned by its creator */
typedef struct cs_stream cs_stream;       /* owned; one thread at a time */
typedef struct cs_semaphore cs_semaphore; /* shared: retain and release */
typedef struct cs_program cs_program;     /* owned */

/* ---- device: core/device.c ---- */

/* Opens "NAME", "NAME:INDEX" or "NAME:UUID", each with an optional "?key=value&...". NAME alone is
 * index 0. Opening the same device with the same options again retains the one that is open.
 * CS_NOT_FOUND names what there is. Free-threaded. */
cs_status cs_device_open(cs_runtime *runtime, const char *spec, cs_device **out, cs_error *error);
void cs_device_retain(cs_device *device);
void cs_device_release(cs_device *device);
/* "cpu:0": borrowed from the device. Options are not part of it. */
const char *cs_device_name(const cs_device *device);
/* Read when the device was opened; borrowed. */
const cs_device_properties *cs_device_get_properties(const cs_device *device);
bool cs_device_has_eager(const cs_device *device);
bool cs_device_has_program(const cs_device *device);
/* 0 or 1 for a table id: whether the plugin hands it out. */
bool cs_device_has_table(const cs_device *device, uint32_t table_id);
cs_runtime *cs_device_runtime(const cs_device *device);

/* op->operands carry dtype, layout and dims; memory is NULL. */
cs_status cs_device_op_query(cs_device *device, const cs_op *op, cs_op_answer *out,
                             cs_error *error);
/* Layout and block size for a plane: the plugin's wish where it has one. */
cs_status cs_device_kv_preference(cs_device *device, uint32_t dtype, uint64_t n_kv_heads,
                                  uint64_t width, uint32_t *layout, uint32_t *block_tokens,
                                  cs_error *error);

/* ---- memory ---- */

/* kind: CS_MEMORY_*. A STAGING buffer is always host-visible: where the plugin has none, plain
 * host memory stands in. The buffer retains its device. */
cs_status cs_buffer_create(cs_device *device, uint64_t bytes, uint32_t kind, cs_buffer **out,
                           cs_error *error);
cs_status cs_buffer_create_packed(cs_device *device, const cs_weight *weight, cs_buffer **out,
                                  cs_packed_info *info, cs_error *error);
/* Packed weights kept on disk, for devices with that table; CS_UNSUPPORTED without. In layout and
 * map the parts of `weight` need no data. Free-threaded. */
cs_status cs_device_packed_layout(cs_device *device, const cs_weight *weight, cs_packed_info *out,
                                  cs_error *error);
/* Copies the cs_buffer_bytes of a packed weight to host memory. */
cs_status cs_buffer_save_packed(cs_buffer *buffer, void *to, cs_error *error);
/* `from` stays mapped and unchanged until the buffer is destroyed. */
cs_status cs_buffer_map_packed(cs_device *device, const cs_weight *weight, uint64_t layout_id,
                               const void *from, uint64_t bytes, cs_buffer **out, cs_error *error);
void cs_buffer_destroy(cs_buffer *buffer);
uint64_t cs_buffer_bytes(const cs_buffer *buffer);
cs_device *cs_buffer_device(const cs_buffer *buffer); /* borrowed */
/* NULL when the host cannot reach it. */
void *cs_buffer_host_pointer(cs_buffer *buffer);
/* For filling cs_tensor.memory; NULL for host memory standing in for staging. */
cs_plugin_memory *cs_buffer_memory(cs_buffer *buffer);

/* ---- streams ---- */

cs_status cs_stream_create(cs_device *device, cs_stream **out, cs_error *error);
void cs_stream_destroy(cs_stream *stream);
cs_device *cs_stream_device(const cs_stream *stream); /* borrowed */
cs_status cs_stream_upload(cs_stream *stream, cs_buffer *to, uint64_t to_offset, const void *from,
                           uint64_t bytes, cs_error *error);
cs_status cs_stream_download(cs_stream *stream, void *to, const cs_buffer *from,
                             uint64_t from_offset, uint64_t bytes, cs_error *error);
cs_status cs_stream_copy(cs_stream *stream, cs_buffer *to, uint64_t to_offset,
                         const cs_buffer *from, uint64_t from_offset, uint64_t bytes,
                         cs_error *error);
cs_status cs_stream_fill(cs_stream *stream, cs_buffer *to, uint64_t offset, uint64_t bytes,
                         uint8_t value, cs_error *error);
cs_status cs_stream_wait(cs_stream *stream, cs_semaphore *semaphore, uint64_t value,
                         cs_error *error);
cs_status cs_stream_signal(cs_stream *stream, cs_semaphore *semaphore, uint64_t value,
                           cs_error *error);
/* Eager where the plugin has it, else through a program made for the call. */
cs_status cs_stream_ops(cs_stream *stream, const cs_op *ops, uint32_t n_ops, cs_buffer *workspace,
                        cs_error *error);
/* Signals a semaphore of the stream's own and waits for it: CS_TIMEOUT leaves the work running. */
cs_status cs_stream_synchronize(cs_stream *stream, uint64_t timeout_us, cs_error *error);

cs_status cs_program_create(cs_device *device, const cs_op *ops, uint32_t n_ops,
                            cs_buffer *workspace, cs_program **out, cs_error *error);
void cs_program_destroy(cs_program *program);
cs_status cs_program_launch(cs_stream *stream, cs_program *program, cs_error *error);

/* ---- times of ops: core/profile.c ---- */

/* Whether streams of this device can time their ops. */
bool cs_device_times_ops(const cs_device *device);
cs_status cs_stream_profile_enable(cs_stream *stream, bool on, cs_error *error);
/* At most `capacity` records of ops that have run, oldest first, each once. */
cs_status cs_stream_profile_read(cs_stream *stream, cs_op_time *out, uint32_t capacity,
                                 uint32_t *n_read, cs_error *error);

/* ---- memory of another device: core/peer.c ---- */

/* Whether cs_stream_peer_copy on a stream of `from` may write to memory of `to`. */
bool cs_device_reaches(const cs_device *from, const cs_device *to);
/* A copy to a buffer of the same device or of one that it reaches; CS_UNSUPPORTED otherwise. */
cs_status cs_stream_peer_copy(cs_stream *stream, cs_buffer *to, uint64_t to_offset,
                              const cs_buffer *from, uint64_t from_offset, uint64_t bytes,
                              cs_error *error);
/* The same memory as a buffer of `with`, to be destroyed before `buffer`. CS_UNSUPPORTED when the
 * plugins have no kind of external memory in common. */
cs_status cs_buffer_share(cs_buffer *buffer, cs_device *with, cs_buffer **out, cs_error *error);

/* ---- semaphores: core/semaphore.c ---- */

cs_status cs_semaphore_create(cs_device *device, uint64_t initial, cs_semaphore **out,
                              cs_error *error);
void cs_semaphore_retain(cs_semaphore *semaphore);
void cs_semaphore_release(cs_semaphore *semaphore);
cs_device *cs_semaphore_device(const cs_semaphore *semaphore); /* borrowed */
cs_status cs_semaphore_query(cs_semaphore *semaphore, uint64_t *value, cs_error *error);
cs_status cs_semaphore_wait(cs_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                            cs_error *error);
cs_status cs_semaphore_signal(cs_semaphore *semaphore, uint64_t value, cs_error *error);
cs_status cs_semaphore_fail(cs_semaphore *semaphore, const cs_error *reason, cs_error *error);

/* Carries a value, or the failure, from one device's timeline to another's: when `from` reaches
 * from_value, `to` is signalled to_value; when `from` fails, or deadline_us passes, `to` is failed.
 * Returns at once; both are retained until it is done. The runtime's bridge thread does it. */
cs_status cs_semaphore_bridge(cs_semaphore *from, uint64_t from_value, cs_semaphore *to,
                              uint64_t to_value, uint64_t deadline_us, cs_error *error);

#endif
