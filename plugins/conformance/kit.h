/* The kit: the plugin under test, the case under way, and how a case ends.
 *
 * A case is a function that returns when all holds. The first check that does not hold ends it
 * (kit_fail does not return). What a case makes through kit_* calls is released when it ends,
 * however it ends: streams first, then second devices, programs, semaphores and memory. */
#ifndef KIT_H
#define KIT_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "board.h"
#include "loader.h"
#include "rng.h"

/* Badges: bits of kit_case.badges. The cases of Core belong to every badge. */
#define KIT_BADGE_CORE          UINT32_C(1)
#define KIT_BADGE_LLM_DENSE     UINT32_C(2)
#define KIT_BADGE_LLM_QUANT     UINT32_C(4)
#define KIT_BADGE_MOE           UINT32_C(8)
#define KIT_BADGE_DISAGGREGATED UINT32_C(16)
#define KIT_N_BADGES            5

typedef struct kit kit;
typedef struct kit_case kit_case;

struct kit_case {
  char name[80];
  uint32_t badges;   /* KIT_BADGE_*; 0: optional */
  uint32_t op_id;    /* CS_OP_* that the case tests, 0 for none */
  uint32_t dtype;    /* of its weights, table or cache, else of its activations */
  uint32_t argument; /* what the function makes of it */
  void (*run)(kit *k, const kit_case *c);
};

typedef struct kit_options {
  const char *plugin_path;
  const char *pair_path; /* a second plugin, or NULL */
  uint32_t device_index;
  bool quick;
  bool measure;
  bool verbose;
  bool in_process;
  uint64_t seed;
  uint32_t soak_seconds;
  uint32_t timeout_seconds; /* of one case */
  cs_option options[16];    /* for device_open */
  uint32_t n_options;
} kit_options;

/* In the order of their release. */
typedef enum kit_kind {
  KIT_STREAM,
  KIT_OTHER,
  KIT_PROGRAM,
  KIT_SEMAPHORE,
  KIT_MEMORY,
  KIT_HOST
} kit_kind;

typedef struct kit_resource {
  kit_kind kind;
  void *handle;
} kit_resource;

struct kit {
  const kit_options *options;
  kit_board *board;
  kit_plugin plugin;
  cs_plugin_instance *instance;
  cs_plugin_device *device;
  cs_device_properties properties;
  kit_rng rng; /* of the case: seed and name decide it */
  kit_result *result;
  jmp_buf *escape;
  kit_resource *resources;
  size_t n_resources;
  size_t resource_capacity;
  cs_plugin_stream *stream; /* made by kit_stream */
  cs_plugin_semaphore *done;
  uint64_t done_value;
  const char *role;       /* of a second device: what its failures begin with; else NULL */
  bool is_timing;         /* values that only the oracle needs are not computed */
  uint32_t n_unsupported; /* shapes that the device said no to */
  uint32_t n_checked;     /* shapes that ran */
};

/* ---- the end of a case: harness.c ---- */

_Noreturn void kit_fail(kit *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
void kit_check(kit *k, bool holds, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* status must be CS_OK; says what was tried, and the error's own words. */
void kit_check_ok(kit *k, cs_status status, const cs_error *error, const char *what);
/* A shape, dtype or feature that the device does not serve: the case goes on with the next one and
 * ends as unsupported. */
void kit_unsupported(kit *k, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Runs one case: its result lands on the board. */
void kit_run_case(kit *k, const kit_case *c, kit_result *result);

/* Opens instance and device; false with the reason in `why`. */
bool kit_open(kit *k, char *why, size_t why_bytes);
void kit_close(kit *k);
/* A second device as a kit of its own: the first of the plugin at `path`, or for NULL the next
 * device of this plugin, this one opened once more where there is no next. Its checks end the case
 * of `k`, and it is closed, with all it made, when the case ends. */
kit *kit_other(kit *k, const char *path);

/* ---- resources of a case: resources.c ---- */

/* Zeroed host memory. */
void *kit_host_memory(kit *k, size_t bytes);
cs_plugin_memory *kit_memory(kit *k, uint64_t bytes);
/* Any stream or semaphore beyond the case's own. */
cs_plugin_stream *kit_stream_create(kit *k);
cs_plugin_semaphore *kit_semaphore_create(kit *k, uint64_t initial);
/* Takes over what the case made by itself. */
void kit_track(kit *k, kit_kind kind, void *handle);
/* Gives it back early. */
void kit_release(kit *k, kit_kind kind, void *handle);
void kit_release_all(kit *k);

/* The case's own stream, made on first use. */
cs_plugin_stream *kit_stream(kit *k);
/* Signals and waits for all that the case's own stream was given, a quarter of the case's time at
 * most. */
void kit_finish(kit *k);
/* The same, handing back the status. */
cs_status kit_try_finish(kit *k, cs_error *error);
void kit_upload(kit *k, cs_plugin_memory *to, uint64_t offset, const void *from, uint64_t bytes);
/* Waits until it is done. */
void kit_download(kit *k, void *to, const cs_plugin_memory *from, uint64_t offset, uint64_t bytes);
/* Enqueues ops on the case's own stream, eagerly or, where there is no eager table or `program` is
 * set, through a program made for the call. */
cs_status kit_enqueue(kit *k, const cs_op *ops, uint32_t n_ops, cs_plugin_memory *workspace,
                      bool program, cs_error *error);

double kit_now_seconds(void); /* monotonic */
void kit_random_bytes(kit *k, void *to, size_t bytes);

#endif
