/* A plugin for the tests of the kit: two devices in host memory with every optional table, and the
 * device option break=NAME that makes one of them wrong. The names are in optional_tables_test.py.
 */
#ifndef TABLES_H
#define TABLES_H

#include <pthread.h>
#include <stdbool.h>

#include "consort/sdk.h"

#define TABLES_LAYOUT_ID  UINT64_C(0x7461626c65730001)
#define TABLES_MAX_TIMES  256
#define TABLES_HEAD_BYTES 64 /* before the rows of a packed weight: its dims */

struct cs_plugin_device {
  const cs_host *host;
  char broken[32];
};

/* A shared mapping of a file without a name, or of bytes that the host keeps. */
struct cs_plugin_memory {
  unsigned char *data;
  uint64_t bytes;
  int fd; /* -1: mapped from the host's image */
};

typedef struct op_times {
  pthread_mutex_t mutex;
  bool is_on;
  uint32_t n;
  cs_op_time times[TABLES_MAX_TIMES];
} op_times;

struct cs_plugin_stream {
  cs_plugin_device *device;
  cs_sdk_queue *queue;
  op_times profile;
};

/* Whether the device was opened with break=NAME. */
bool tables_break(const cs_plugin_device *device, const char *name);

cs_status tables_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                          cs_plugin_memory **out, cs_error *error);
/* A handle for memory that is there: `fd` is taken over, -1 for none. */
cs_status tables_wrap(cs_plugin_device *device, void *data, uint64_t bytes, int fd,
                      cs_plugin_memory **out, cs_error *error);

/* Copies on the stream's queue. */
cs_status tables_copy(cs_plugin_stream *stream, void *to, const void *from, uint64_t bytes,
                      cs_error *error);

/* Notes that an op ran. */
void tables_note_op(cs_plugin_stream *stream, uint32_t op_id, uint64_t begin_ns, uint64_t end_ns);
uint64_t tables_now_ns(void);

/* Bytes of a packed f32 weight. */
uint64_t tables_packed_bytes(const cs_weight *weight);

extern const cs_external_memory_table tables_external;
extern const cs_peer_table tables_peer;
extern const cs_profile_table tables_profile;
extern const cs_weights_map_table tables_weights_map;

#endif
