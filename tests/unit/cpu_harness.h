/* Drives the CPU plugin through its tables, without core: one device, one stream, plain arrays. */
#ifndef TESTS_CPU_HARNESS_H
#define TESTS_CPU_HARNESS_H

#include <stdbool.h>

#include "consort/sdk.h"

typedef struct cpu_harness {
  void *library;
  const cs_device_table *devices;
  const cs_memory_table *memories;
  const cs_stream_table *streams;
  const cs_semaphore_table *semaphores;
  const cs_capability_table *capability;
  const cs_eager_table *eager;
  const cs_program_table *program;
  cs_plugin_instance *instance;
  cs_plugin_device *device;
  cs_plugin_stream *stream;
  cs_plugin_semaphore *semaphore;
  cs_plugin_memory *workspace;
  uint64_t workspace_bytes;
  uint64_t signalled;
} cpu_harness;

/* Every table of kernels that the plugin has on some machine. */
#define HARNESS_N_KERNELS 7
extern const char *const harness_kernels[HARNESS_N_KERNELS];

/* Whether /proc/cpuinfo lists this word for the processor. It lists none for an emulated one, whose
 * tables CONSORT_TEST_KERNELS names instead. */
bool harness_processor_has(const char *word);

/* Opens device 0 with kernel=KERNEL and threads=N; false when this machine has no such kernel.
 * Anything else that fails ends the test. */
bool harness_open(cpu_harness *harness, const char *kernel, const char *threads);
/* With int8=ROUNDING and bf16=ROUNDING, too. */
bool harness_open_rounding(cpu_harness *harness, const char *kernel, const char *threads,
                           const char *rounding);
void harness_close(cpu_harness *harness);

/* Device memory of a dense tensor, filled from `data` (may be NULL: bytes 0xa5). `pad` extra
 * bytes separate rows. The host pointer is memory_host_pointer. */
cs_tensor harness_tensor(cpu_harness *harness, uint32_t dtype, const void *data, uint64_t pad,
                         uint32_t rank, const uint64_t *dims);
cs_tensor harness_packed(cpu_harness *harness, uint32_t dtype, uint32_t usage, const void *data,
                         uint64_t bytes, uint32_t rank, const uint64_t *dims);
void *harness_row(cpu_harness *harness, const cs_tensor *tensor, uint64_t row);
void harness_free(cpu_harness *harness, cs_tensor *tensors, uint32_t n);

/* Asks, grows the workspace, enqueues and waits. */
cs_status harness_run(cpu_harness *harness, uint32_t id, const cs_tensor *operands, uint32_t n,
                      const void *params, cs_error *error);
bool harness_allows(cpu_harness *harness, uint32_t id, const cs_tensor *operands, uint32_t n,
                    const void *params, cs_op_answer *answer);

/* ---- data ---- */

extern uint64_t harness_seed;
double harness_uniform(void); /* -1 to 1 */
void harness_fill(float *x, uint64_t n);
/* Elements in one block of a format; 1 for floats. */
uint32_t harness_block_elements(uint32_t dtype);
/* Makes GGUF bytes of n random elements and tells their exact values. */
void harness_weights(uint32_t dtype, void *bytes, double *values, uint64_t n);
double harness_nmse(const double *reference, const float *x, uint64_t n);

#endif
