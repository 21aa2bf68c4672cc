/* What a device cannot exceed, measured while a benchmark runs. */
#ifndef SCHEDULER_BENCH_H
#define SCHEDULER_BENCH_H

#include <stdint.h>

#include "core/device.h"
#include "scheduler/probe_host.h"

/* The limits of one device. For devices that compute on the host's cores an independent probe
 * measures them; for others a copy within the device and its fastest matmul stand in. */
typedef struct cs_bench_limits {
  cs_host_reader *reader; /* owned; NULL for a device with cores of its own */
  uint32_t reads_weights; /* 1: the reader reads what a token reads */
  cs_host_arithmetic arithmetic;
  uint32_t n_threads;
  double bytes_per_s; /* the highest seen so far */
  double flop_per_s;
} cs_bench_limits;

/* dtype: of most weights. `ranges`: what a token reads, where the host can reach it. */
cs_status cs_bench_limits_init(cs_device *device, uint32_t dtype, const cs_host_range *ranges,
                               size_t n_ranges, cs_bench_limits *limits, cs_error *error);
void cs_bench_limits_finish(cs_bench_limits *limits);
/* Measures the host once more, as neighbours and clocks make it swing: the highest counts. */
cs_status cs_bench_limits_refresh(cs_bench_limits *limits, cs_error *error);

#endif
