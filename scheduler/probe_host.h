/* The limits of the host's cores, measured without any plugin: what plain reads and plain
 * arithmetic reach. Shares in benchmarks are of these. */
#ifndef SCHEDULER_PROBE_HOST_H
#define SCHEDULER_PROBE_HOST_H

#include <stdint.h>

#include "consort/status.h"

/* Reads a buffer much larger than the caches. Kept between passes, because bandwidth swings: a fair
 * comparison alternates passes with the work that is compared. */
typedef struct cs_host_reader cs_host_reader;

/* n_threads: 0 for one on each allowed core; more than those are not used. */
cs_status cs_host_reader_create(uint32_t n_threads, cs_host_reader **out, cs_error *error);
void cs_host_reader_destroy(cs_host_reader *reader);
/* One pass over the whole buffer by all threads at once. */
cs_status cs_host_reader_pass(cs_host_reader *reader, double *bytes_per_s, cs_error *error);

/* The number format that products are made of. */
typedef enum cs_host_arithmetic {
  CS_HOST_F32,  /* fused multiply-add */
  CS_HOST_BF16, /* dot products into F32; F32 where the cores have none */
  CS_HOST_INT8  /* dot products into int32 */
} cs_host_arithmetic;

/* Arithmetic on registers only, by all threads at once. A multiply and an add count as two. */
cs_status cs_host_peak(uint32_t n_threads, cs_host_arithmetic arithmetic, double *flop_per_s,
                       cs_error *error);

#endif
