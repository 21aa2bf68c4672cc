/* What scripts/gpu-check compares with: rates of this GPU measured without Consort's host code, and
 * a recorded op list beside a CUDA graph made by hand. */
#ifndef CUDA_PROBE_H
#define CUDA_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "driver.h"

typedef struct probe {
  cuda_driver driver;
  CUdevice device;
  CUcontext context;
  CUstream stream;
  CUevent begin, end;
  bool small; /* sizes for a driver that runs kernels on the CPU */
} probe;

/* Ends the program with one line when a call of the driver failed. */
void probe_check(const probe *p, CUresult code, const char *call);
/* Ends the program with one line. */
void probe_stop(const char *what, const char *why) __attribute__((noreturn));
/* Device memory of so many bytes; never given back. */
CUdeviceptr probe_allocate(const probe *p, uint64_t bytes);
/* Bytes that look random, the same for equal seeds. */
void probe_fill(unsigned char *to, uint64_t bytes, uint64_t seed);

typedef struct probe_replay {
  double plugin_us, graph_us; /* of one launch, the median */
  uint32_t n_kernels;
  bool equal; /* both gave the same bits */
  /* Of the plugin's stream between device memory and its staging memory, in pieces of 1 MiB. */
  double to_device_bytes_per_s, to_host_bytes_per_s;
} probe_replay;

/* 32 layers of a Llama's matmuls, norms and gates in Q8_0, one row: as a program of the plugin in
 * `path`, and as kernel nodes of a graph made here. The same kernels, weights and numbers. */
void probe_run_replay(const probe *p, const char *path, probe_replay *out);

#endif
