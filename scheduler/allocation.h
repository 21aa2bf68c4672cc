/* What a batch system gave this process: the devices, by their ordinals on the node, and the
 * processors. Read from the environment that Slurm makes for a job. */
#ifndef SCHEDULER_ALLOCATION_H
#define SCHEDULER_ALLOCATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

#define CS_ALLOCATION_MAX        256 /* devices of a node */
#define CS_ALLOCATION_NAME_BYTES 64

/* Where variables come from, so that tests bring their own. */
typedef struct cs_environment {
  const char *(*get)(const void *user, const char *name); /* NULL: not set */
  const void *user;
} cs_environment;

/* The process's own. Not while another thread changes it. */
extern const cs_environment cs_process_environment;

typedef struct cs_allocation {
  bool in_job;               /* SLURM_JOB_ID */
  bool in_step;              /* SLURM_STEP_ID, and not that of a batch script or interactive step */
  const char *ordinals_from; /* the variable that named the ordinals; NULL: none did */
  uint32_t n_given;          /* devices given to this process on this node */
  uint32_t n_ordinals;       /* n_given, or 0 when Slurm gave devices and does not say which */
  uint32_t ordinals[CS_ALLOCATION_MAX]; /* places in the node's list in gres.conf, from 0 */
  uint32_t n_shards; /* SLURM_SHARDS_ON_NODE: the devices are shared with others; 0: they are not */
  uint32_t n_processors; /* SLURM_CPUS_ON_NODE; 0: not said */
  uint32_t n_map;        /* CONSORT_SLURM_DEVICES: the name of the device with each ordinal */
  char map[CS_ALLOCATION_MAX][CS_ALLOCATION_NAME_BYTES];
} cs_allocation;

/* Variables, by their meaning in Slurm 22.05 (srun(1), gres.conf(5)):
 *
 *   SLURM_JOB_ID           a job; without it everything else is ignored
 *   SLURM_STEP_ID          a step of the job
 *   SLURM_STEP_GPUS        ordinals given to a step: "0,2"
 *   SLURM_JOB_GPUS         ordinals given to a batch script or an interactive step. Steps inherit
 *                          it from the script and may have less: it counts outside steps only
 *   SLURM_GPUS_ON_NODE     how many devices there are; told apart from their ordinals, because
 *                          --gpus-per-task gives devices without naming them
 *   SLURM_SHARDS_ON_NODE   shares of the devices
 *   SLURM_CPUS_ON_NODE     processors
 *   CONSORT_SLURM_DEVICES  "NAME:INDEX,NAME:UUID,...": the node's devices in the order of gres.conf
 *
 * CS_INVALID_ARGUMENT names the variable whose value cannot be read; then *out is zero. */
cs_status cs_allocation_read(const cs_environment *environment, cs_allocation *out,
                             cs_error *error);

/* A list by which a driver hides devices: "0,2", "0.1,1" (parts of devices), identifiers in place
 * of numbers; "" and "NoDevFiles" hide all, "-1" what follows it. *n_devices is the number of
 * devices it leaves. CS_INVALID_ARGUMENT names `variable`. */
cs_status cs_allocation_count_visible(const char *variable, const char *value, uint32_t *n_devices,
                                      cs_error *error);

/* "0,2": the ordinals, cut to fit. */
void cs_allocation_print(const cs_allocation *allocation, char *out, size_t bytes);

#endif
