/* The limits of the host's cores, measured without any plugin: what plain reads and plain
 * arithmetic reach. Shares in benchmarks are of these. */
#ifndef SCHEDULER_PROBE_HOST_H
#define SCHEDULER_PROBE_HOST_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

/* Reads memory much larger than the caches. Kept between passes, because bandwidth swings: a fair
 * comparison alternates passes with the work that is compared. */
typedef struct cs_host_reader cs_host_reader;

typedef struct cs_host_range {
  const void *data; /* on a 64-byte boundary */
  size_t bytes;
} cs_host_range;

/* n_threads: 0 for one on each allowed core; more than those are not used. Reads the given ranges
 * (copied; their memory is borrowed), or with n_ranges 0 a buffer of its own. */
cs_status cs_host_reader_create(uint32_t n_threads, const cs_host_range *ranges, size_t n_ranges,
                                cs_host_reader **out, cs_error *error);
void cs_host_reader_destroy(cs_host_reader *reader);
/* One pass over everything by all threads at once, each with a share of every range. */
cs_status cs_host_reader_pass(cs_host_reader *reader, double *bytes_per_s, cs_error *error);
uint64_t cs_host_reader_bytes(const cs_host_reader *reader); /* of one pass */

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
