/* What a run has found out. The board lies in memory shared by the supervising process and the one
 * that loads the plugin, so that results outlive a crash of the plugin. */
#ifndef KIT_BOARD_H
#define KIT_BOARD_H

#include <stdatomic.h>
#include <stdint.h>

typedef enum kit_status {
  KIT_NOT_RUN,
  KIT_PASSED,
  KIT_FAILED,
  KIT_UNSUPPORTED,
  KIT_WAIVED
} kit_status;

#define KIT_MESSAGE_BYTES 384

typedef struct kit_result {
  uint32_t status; /* kit_status */
  uint32_t reserved;
  double seconds;
  double nmse;      /* the worst of the case; negative when nothing was compared so */
  double max_error; /* likewise */
  char message[KIT_MESSAGE_BYTES];
} kit_result;

/* One op and dtype at a representative shape. */
typedef struct kit_timing {
  uint32_t op_id; /* 0: the entry is free */
  uint32_t dtype;
  double p50_us;
  double p99_us;
  double bytes; /* read and written by one op */
  double flops;
  char shape[64];
} kit_timing;

#define KIT_MAX_TIMINGS 96

typedef struct kit_board {
  atomic_uint current;  /* index of the case under way */
  atomic_uint finished; /* 1: the child ran to its end */
  char setup_error[KIT_MESSAGE_BYTES];
  char plugin_name[64];
  char plugin_version[64];
  char plugin_vendor[64];
  char device_description[96];
  char device_driver[64];
  uint32_t device_type;
  uint32_t device_flags;
  double copy_bytes_per_s; /* stream_copy, bytes read plus written */
  uint32_t n_timings;
  uint32_t reserved;
  kit_timing timings[KIT_MAX_TIMINGS];
  kit_result results[]; /* one a case */
} kit_board;

#endif
