/* What an op costs before any device sees it: batches of ops go through the checked front door to
 * the null plugin, whose enqueue does nothing. The best of many rounds is printed, as everything
 * else on the machine can only add.
 *
 *   front_door_bench PLUGIN_FOLDER [ROUNDS] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/device.h"
#include "core/runtime.h"

#define BATCH         64
#define ROUND_BATCHES 1000
#define MOST_NS       1000.0 /* an op */

static cs_error error = CS_ERROR_INIT;

static void must(cs_status status, const char *what) {
  if (status == CS_OK) return;
  fprintf(stderr, "front_door_bench: %s: %s\n", what, error.message);
  exit(1);
}

/* BATCH times out = a + b over (4, 256) floats. */
static void fill_batch(cs_buffer *buffer, cs_tensor tensors[3], cs_op ops[BATCH]) {
  for (size_t i = 0; i < 3; i++)
    tensors[i] = (cs_tensor){.struct_size = sizeof tensors[i],
                             .dtype = CS_DTYPE_F32,
                             .rank = 2,
                             .memory = cs_buffer_memory(buffer),
                             .offset_bytes = i * 4096,
                             .dims = {4, 256}};
  for (size_t i = 0; i < BATCH; i++)
    ops[i] = (cs_op){.struct_size = sizeof ops[i],
                     .id = CS_OP_ADD,
                     .n_operands = 3,
                     .operand_stride = sizeof tensors[0],
                     .operands = tensors};
}

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

static double round_ns(cs_stream *stream, const cs_op *ops, long n_batches) {
  const double begin_ns = now_ns();
  for (long i = 0; i < n_batches; i++)
    must(cs_stream_ops(stream, ops, BATCH, NULL, &error), "ops");
  return (now_ns() - begin_ns) / ((double)n_batches * BATCH);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: front_door_bench PLUGIN_FOLDER [ROUNDS]\n");
    return 2;
  }
  const long n_rounds = argc > 2 ? strtol(argv[2], NULL, 10) : 20;
  const cs_runtime_options options = {.system_dir = argv[1],
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .log_level = CS_LOG_WARN};
  cs_runtime *runtime;
  cs_device *device;
  cs_buffer *buffer;
  cs_stream *stream;
  must(cs_runtime_create(&options, &runtime, &error), "runtime");
  must(cs_device_open(runtime, "null:0", &device, &error), "device");
  must(cs_buffer_create(device, 3 * 4096, CS_MEMORY_DEVICE, &buffer, &error), "buffer");
  must(cs_stream_create(device, &stream, &error), "stream");
  cs_tensor tensors[3];
  cs_op ops[BATCH];
  fill_batch(buffer, tensors, ops);
  double best_ns = round_ns(stream, ops, ROUND_BATCHES);
  for (long i = 1; i < n_rounds; i++) {
    const double ns = round_ns(stream, ops, ROUND_BATCHES);
    if (ns < best_ns) best_ns = ns;
  }
  printf("%.1f ns/op (batches of %d, best of %ld rounds of %d)\n", best_ns, BATCH, n_rounds,
         ROUND_BATCHES);
  cs_stream_destroy(stream);
  cs_buffer_destroy(buffer);
  cs_device_release(device);
  cs_runtime_release(runtime);
  return best_ns <= MOST_NS ? 0 : 1;
}
