/* Ready tables: stream, semaphore, eager ops and programs over the SDK's queue and timelines, for a
 * chip whose driver is told by a cs_sdk_driver what only it can know.
 *
 * A plugin puts cs_sdk_device first in its struct cs_plugin_device and cs_sdk_stream first in its
 * struct cs_plugin_stream, fills a cs_sdk_driver, and hands out the tables at the end of this
 * header as they are. It may still use a table of its own in place of any of them; only who uses
 * cs_sdk_stream_table must use cs_sdk_semaphore_table too, and the other way round. */
#ifndef CONSORT_SDK_DRIVER_H
#define CONSORT_SDK_DRIVER_H

#include "consort/sdk.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cs_sdk_driver cs_sdk_driver;

/* First in struct cs_plugin_device; device_open fills both. */
typedef struct cs_sdk_device {
  const cs_host *host;
  const cs_sdk_driver *driver;
} cs_sdk_device;

/* First in struct cs_plugin_stream; stream_create fills it and zeroes the rest. */
typedef struct cs_sdk_stream {
  const cs_host *host;
  const cs_sdk_driver *driver;
  cs_plugin_device *device; /* not in `finish`: it may be closed by then */
  cs_sdk_queue *queue;      /* for commands of the plugin's own */
  cs_sdk_op_log *log;       /* for `run`, where cs_sdk_profile_table is handed out */
} cs_sdk_stream;

/* A copy or a fill within memory that check_range has passed; never of 0 bytes. What a command does
 * not use is zero. */
typedef struct cs_sdk_copy {
  cs_plugin_memory *to;
  const cs_plugin_memory *from;
  void *host_to;
  const void *host_from;
  uint64_t to_offset, from_offset, bytes;
  unsigned char value; /* of a fill */
} cs_sdk_copy;

/* What the chip does its own way. "On the stream's thread" means: on the queue's, in order, each
 * call after all before it; such a call returns when the driver has the work, and its failure
 * poisons the stream. Entries are required unless they say otherwise. */
struct cs_sdk_driver {
  size_t stream_bytes; /* sizeof(struct cs_plugin_stream) */
  /* Optional: makes what the driver needs for a stream; on the caller's thread. */
  cs_status (*start)(cs_plugin_stream *stream, cs_error *error);
  /* Optional: undoes that, from whichever thread; waits up to 2 s for the device. */
  void (*finish)(cs_plugin_stream *stream);
  /* Optional: called once on the stream's thread before its first command. */
  void (*enter)(cs_plugin_stream *stream);
  /* Optional: returns when everything handed over is done and visible. For drivers whose commands
   * are done when they return it stays NULL. */
  cs_status (*drain)(cs_plugin_stream *stream, cs_error *error);
  /* Optional: cs_sdk_queue_options.signal, so that a signal does not wait for `drain`. */
  cs_status (*signal)(cs_plugin_stream *stream, cs_sdk_timeline *timeline, uint64_t value,
                      cs_error *error);

  /* Optional: the range lies in memory of this device; on the caller's thread. */
  cs_status (*check_range)(const cs_plugin_device *device, const cs_plugin_memory *memory,
                           uint64_t offset, uint64_t bytes, cs_error *error);
  /* On the stream's thread; they may be one function. */
  cs_status (*upload)(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error);
  cs_status (*download)(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error);
  cs_status (*copy)(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error);
  cs_status (*fill)(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error);

  /* Answers op_query for a checked copy of the op; *answer begins as NO without a reason. For
   * cs_sdk_op_query. */
  cs_status (*judge)(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                     cs_error *error);

  /* Ops in one of three ways; each of them gives both cs_sdk_eager_table and cs_sdk_program_table.
   *
   * 1. prepare (optional) and run. `prepare` checks a list on the caller's thread, where an error
   * is told at once, and may make of it what `run` then runs on the stream's thread: kernels and
   * arguments, or the driver's own recording when the list will be replayed. *work may stay NULL.
   * The list stays for `run`, and error->op_index names the op that failed. `discard` (optional)
   * frees *work, from any thread, when no run is under way, perhaps after the device was closed. */
  cs_status (*prepare)(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                       uint32_t replayed, void **work, cs_error *error);
  cs_status (*run)(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                   void *work, cs_error *error);
  void (*discard)(void *work);
  /* 2. A program table of the plugin's own, over this stream's queue: ops_enqueue is derived from
   * it: records, launches once, and destroys when the launch is done. */
  const cs_program_table *program;
  /* 3. An eager table of the plugin's own: programs are derived from it: a program keeps its list
   * and enqueues it at each launch. */
  const cs_eager_table *eager;
};

/* The capability table's op_query over `judge`: an op or a field of a newer host is answered NO,
 * and the answer is written by the size rule. */
cs_status cs_sdk_op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                          cs_error *error);

extern const cs_semaphore_table cs_sdk_semaphore_table;
extern const cs_stream_table cs_sdk_stream_table;
extern const cs_eager_table cs_sdk_eager_table;
extern const cs_program_table cs_sdk_program_table;
/* For drivers whose `run` is done when it returns and notes each op in the stream's log. */
extern const cs_profile_table cs_sdk_profile_table;

static inline cs_sdk_device *cs_sdk_device_of(const cs_plugin_device *device) {
  return (cs_sdk_device *)(void *)(uintptr_t)device;
}

static inline cs_sdk_stream *cs_sdk_stream_of(const cs_plugin_stream *stream) {
  return (cs_sdk_stream *)(void *)(uintptr_t)stream;
}

#ifdef __cplusplus
}
#endif

#endif
