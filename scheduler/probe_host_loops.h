/* The loops of the host probe: one per kind of instruction, picked for the processor at run time.
 */
#ifndef SCHEDULER_PROBE_HOST_LOOPS_H
#define SCHEDULER_PROBE_HOST_LOOPS_H

#include <stddef.h>
#include <stdint.h>

#include "scheduler/probe_host.h"

/* Runs n_rounds rounds of arithmetic and returns something that depends on all of it. */
typedef uint64_t (*cs_peak_loop)(uint64_t n_rounds);

typedef struct cs_peak_kernel {
  cs_peak_loop loop;
  double flop_per_round;
} cs_peak_kernel;

/* The fastest loop that this processor has for a format. */
cs_peak_kernel cs_peak_kernel_for(cs_host_arithmetic arithmetic);

/* Reads `bytes`, a multiple of 256, from a 64-byte boundary. */
uint64_t cs_read_loop(const unsigned char *from, size_t bytes);

#endif
