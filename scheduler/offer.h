/* Which devices a worker offers: those that the job was given, each with the reason. */
#ifndef SCHEDULER_OFFER_H
#define SCHEDULER_OFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/allocation.h"

typedef enum cs_offer_verdict {
  CS_OFFER_NO,
  CS_OFFER_YES,
  CS_OFFER_UNCLEAR /* it may be one of the job's: only by name */
} cs_offer_verdict;

typedef struct cs_offer_device {
  const char *plugin; /* borrowed, like all texts; devices of a plugin stand together */
  uint32_t index;
  const char *uuid;            /* "" or NULL: none */
  bool on_processors;          /* it is the host's processors: given by them, not by ordinals */
  const char *visible_devices; /* the variable that the plugin's driver obeys; "" or NULL: none */
  cs_offer_verdict verdict;    /* out, like the reason: one line */
  char reason[192];
} cs_offer_device;

/* Outside a job every device is offered. In one:
 *
 *   - devices on the host's processors: yes, with the processors of the job;
 *   - with CONSORT_SLURM_DEVICES: the devices whose names stand at the job's ordinals;
 *   - a plugin whose driver's variable is set: all that the driver still shows, because it numbers
 *     what it leaves from 0; the variable must not leave more than the job was given;
 *   - another plugin: its devices, counted without those on processors, by the job's ordinals. An
 *     ordinal beyond the last device means that the driver shows the job's devices only (a device
 *     cgroup does that and leaves the ordinals as they were): then all, if they are not too many;
 *   - where devices of several plugins would be right, none of them is without being named.
 *
 * CS_INVALID_ARGUMENT names a variable that cannot be read or contradicts another. */
cs_status cs_offer_choose(const cs_allocation *allocation, const cs_environment *environment,
                          cs_offer_device *devices, size_t n_devices, cs_error *error);

#endif
