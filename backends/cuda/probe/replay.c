/* The same decode-like work twice: by the plugin's program table, as the engine replays it, and as
 * a graph of kernel nodes whose arguments are written here. Weights are the same bytes, in the
 * layout that pack.c documents for Q8_0: quants of all rows, then a scale a block. Launches
 * alternate, so that clocks and heat treat both alike; each is timed by the host from the call to
 * its end. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "consort/half.h"
#include "consort/plugin.h"
#include "cuda_plugin.h"
#include "probe.h"

#define N_WEIGHTS   5 /* a layer's: q, out, gate, up, down */
#define N_LAYERS    8 /* with weights of their own, */
#define MAX_ROUNDS  4 /* passed so often */
#define N_OPS_LAYER 8
#define N_TIMES     51
#define WAIT_US     60000000
#define PIECE_BYTES (UINT64_C(1) << 20)

extern const unsigned char cuda_kernels_image[]; /* image.S */

/* Activations, as floats from the start of one allocation. */
typedef struct places {
  uint64_t x, h, a, g, u, s, bytes; /* in bytes */
} places;

typedef struct weight_source {
  uint64_t n_out, n_in;
  unsigned char *gguf;
  uint64_t gguf_bytes;
} weight_source;

typedef struct bench {
  const probe *p;
  uint64_t d, f;
  uint32_t n_rounds;
  places at;
  weight_source weights[N_WEIGHTS];
  float *first_x; /* (d) */
} bench;

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static void make_weight(weight_source *w, uint64_t n_out, uint64_t n_in, uint64_t seed) {
  const uint64_t n_blocks = n_out * n_in / 32;
  const uint16_t scale = cs_f16_from_f32(0.0004f);
  *w = (weight_source){n_out, n_in, malloc(n_blocks * 34), n_blocks * 34};
  if (!w->gguf) probe_stop("replay", "out of memory");
  probe_fill(w->gguf, w->gguf_bytes, seed);
  for (uint64_t i = 0; i < n_blocks; i++)
    memcpy(w->gguf + i * 34, &scale, 2);
}

static void prepare(bench *b) {
  b->d = b->p->small ? 64 : 4096;
  b->f = b->p->small ? 128 : 14336;
  b->n_rounds = b->p->small ? 1 : MAX_ROUNDS;
  const uint64_t d = b->d * 4, f = b->f * 4;
  b->at = (places){0, d, 2 * d, 3 * d, 3 * d + f, 3 * d + 2 * f, 3 * d + 3 * f};
  make_weight(&b->weights[0], b->d, b->d, 1);
  make_weight(&b->weights[1], b->d, b->d, 2);
  make_weight(&b->weights[2], b->f, b->d, 3);
  make_weight(&b->weights[3], b->f, b->d, 4);
  make_weight(&b->weights[4], b->d, b->f, 5);
  b->first_x = malloc(d);
  if (!b->first_x) probe_stop("replay", "out of memory");
  for (uint64_t i = 0; i < b->d; i++)
    b->first_x[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
}

/* ---- by the plugin ---- */

typedef struct plugin_side {
  const cs_device_table *devices;
  const cs_memory_table *memory;
  const cs_stream_table *streams;
  const cs_semaphore_table *semaphores;
  const cs_capability_table *capability;
  const cs_program_table *programs;
  cs_plugin_instance *instance;
  cs_plugin_device *device;
  cs_plugin_stream *stream;
  cs_plugin_semaphore *semaphore;
  cs_plugin_program *program;
  cs_plugin_memory *buffer, *norm, *weights[N_LAYERS][N_WEIGHTS];
  uint64_t signalled;
} plugin_side;

static void *host_allocate(void *context, uint64_t bytes, uint64_t alignment) {
  (void)context;
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

static void host_deallocate(void *context, void *pointer) {
  (void)context;
  free(pointer);
}

static const cs_host host = {
    .struct_size = sizeof(cs_host), .allocate = host_allocate, .deallocate = host_deallocate};

static void want(cs_status status, const cs_error *error, const char *call) {
  if (status != CS_OK) probe_stop(call, error->message);
}

static void load_plugin(plugin_side *s, const char *path) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin plugin = {.struct_size = sizeof plugin};
  cs_plugin_query_fn query;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) probe_stop(path, dlerror());
  *(void **)&query = dlsym(library, CS_PLUGIN_QUERY_SYMBOL);
  if (!*(void **)&query || query(&host, &plugin) != CS_OK) probe_stop(path, "not a plugin");
  s->devices = plugin.table(CS_TABLE_DEVICE, 0);
  s->memory = plugin.table(CS_TABLE_MEMORY, 0);
  s->streams = plugin.table(CS_TABLE_STREAM, 0);
  s->semaphores = plugin.table(CS_TABLE_SEMAPHORE, 0);
  s->capability = plugin.table(CS_TABLE_CAPABILITY, 0);
  s->programs = plugin.table(CS_TABLE_PROGRAM, 0);
  want(s->devices->instance_create(&host, &s->instance, &error), &error, "instance_create");
  want(s->devices->device_open(s->instance, 0, NULL, 0, 0, &s->device, &error), &error,
       "device_open");
  want(s->streams->stream_create(s->device, &s->stream, &error), &error, "stream_create");
  want(s->semaphores->semaphore_create(s->device, 0, &s->semaphore, &error), &error,
       "semaphore_create");
}

static cs_plugin_memory *pack(const plugin_side *s, const weight_source *w) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *packed = NULL;
  const cs_weight_part part = {
      .struct_size = sizeof part, .dtype = CS_DTYPE_Q8_0, .data = w->gguf, .bytes = w->gguf_bytes};
  const cs_weight weight = {.struct_size = sizeof weight,
                            .dtype = CS_DTYPE_Q8_0,
                            .usage = CS_USAGE_MATMUL,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {w->n_out, w->n_in},
                            .parts = &part};
  want(s->capability->weights_pack(s->device, &weight, &packed, NULL, &error), &error,
       "weights_pack");
  return packed;
}

/* An op list under way. */
typedef struct op_builder {
  cs_op ops[MAX_ROUNDS * N_LAYERS * N_OPS_LAYER];
  cs_tensor operands[MAX_ROUNDS * N_LAYERS * N_OPS_LAYER][5];
  uint32_t n;
  cs_rms_norm_params norm;
  cs_matmul_params matmul;
} op_builder;

static cs_tensor vector(cs_plugin_memory *memory, uint64_t offset, uint64_t n) {
  return (cs_tensor){.struct_size = sizeof(cs_tensor),
                     .dtype = CS_DTYPE_F32,
                     .rank = 2,
                     .memory = memory,
                     .offset_bytes = offset,
                     .dims = {1, n}};
}

static cs_tensor *add_op(op_builder *b, uint32_t id, uint32_t n_operands, const void *params) {
  cs_tensor *operands = b->operands[b->n];
  for (uint32_t i = 0; i < 5; i++)
    operands[i] = (cs_tensor){.struct_size = sizeof(cs_tensor), .rank = 1};
  b->ops[b->n++] = (cs_op){.struct_size = sizeof(cs_op),
                           .id = id,
                           .n_operands = n_operands,
                           .operand_stride = sizeof(cs_tensor),
                           .operands = operands,
                           .params = params};
  return operands;
}

static void add_norm(op_builder *b, const plugin_side *s, const bench *w) {
  cs_tensor *operands = add_op(b, CS_OP_RMS_NORM, 5, &b->norm);
  operands[0] = vector(s->buffer, w->at.h, w->d);
  operands[1] = vector(s->buffer, w->at.x, w->d);
  operands[2] = vector(s->norm, 0, w->d);
  operands[2].rank = 1;
  operands[2].dims[0] = w->d;
}

static void add_matmul(op_builder *b, const plugin_side *s, cs_plugin_memory *weight,
                       const weight_source *shape, uint64_t out, uint64_t in, bool residual) {
  cs_tensor *operands = add_op(b, CS_OP_MATMUL, 5, &b->matmul);
  operands[0] = vector(s->buffer, out, shape->n_out);
  operands[1] = vector(s->buffer, in, shape->n_in);
  operands[2] = vector(weight, 0, shape->n_in);
  operands[2].dtype = CS_DTYPE_Q8_0;
  operands[2].layout = CS_LAYOUT_PACKED;
  operands[2].dims[0] = shape->n_out;
  if (residual) operands[4] = operands[0];
}

static void add_layer(op_builder *b, const plugin_side *s, const bench *w,
                      cs_plugin_memory *const weights[N_WEIGHTS]) {
  const places *at = &w->at;
  add_norm(b, s, w);
  add_matmul(b, s, weights[0], &w->weights[0], at->a, at->h, false);
  add_matmul(b, s, weights[1], &w->weights[1], at->x, at->a, true);
  add_norm(b, s, w);
  add_matmul(b, s, weights[2], &w->weights[2], at->g, at->h, false);
  add_matmul(b, s, weights[3], &w->weights[3], at->u, at->h, false);
  cs_tensor *operands = add_op(b, CS_OP_SILU_MUL, 3, NULL);
  operands[0] = vector(s->buffer, at->s, w->f);
  operands[1] = vector(s->buffer, at->g, w->f);
  operands[2] = vector(s->buffer, at->u, w->f);
  add_matmul(b, s, weights[4], &w->weights[4], at->x, at->s, true);
}

static void finish_plugin(plugin_side *s) {
  cs_error error = CS_ERROR_INIT;
  want(s->streams->stream_signal(s->stream, s->semaphore, ++s->signalled, &error), &error,
       "stream_signal");
  want(s->semaphores->semaphore_wait(s->semaphore, s->signalled, WAIT_US, &error), &error,
       "semaphore_wait");
}

static void make_program(plugin_side *s, const bench *w) {
  cs_error error = CS_ERROR_INIT;
  float *ones = malloc(w->d * 4);
  op_builder *b = calloc(1, sizeof *b);
  if (!b || !ones) probe_stop("replay", "out of memory");
  for (uint64_t i = 0; i < w->d; i++)
    ones[i] = 1;
  want(s->memory->memory_allocate(s->device, w->at.bytes, CS_MEMORY_DEVICE, &s->buffer, &error),
       &error, "memory_allocate");
  want(s->memory->memory_allocate(s->device, w->d * 4, CS_MEMORY_DEVICE, &s->norm, &error), &error,
       "memory_allocate");
  want(s->streams->stream_upload(s->stream, s->norm, 0, ones, w->d * 4, &error), &error, "upload");
  finish_plugin(s);
  b->norm = (cs_rms_norm_params){.struct_size = sizeof b->norm, .epsilon = 1e-5f};
  b->matmul = (cs_matmul_params){.struct_size = sizeof b->matmul};
  for (uint32_t layer = 0; layer < N_LAYERS; layer++)
    for (uint32_t i = 0; i < N_WEIGHTS; i++)
      s->weights[layer][i] = pack(s, &w->weights[i]);
  for (uint32_t i = 0; i < w->n_rounds * N_LAYERS; i++)
    add_layer(b, s, w, s->weights[i % N_LAYERS]);
  want(s->programs->program_create(s->device, b->ops, b->n, sizeof b->ops[0], NULL, &s->program,
                                   &error),
       &error, "program_create");
  free(b);
  free(ones);
}

static double launch_program(plugin_side *s, const bench *w, float *x) {
  cs_error error = CS_ERROR_INIT;
  want(s->streams->stream_upload(s->stream, s->buffer, w->at.x, w->first_x, w->d * 4, &error),
       &error, "upload");
  finish_plugin(s);
  const double begin = now_us();
  want(s->programs->program_launch(s->stream, s->program, &error), &error, "program_launch");
  finish_plugin(s);
  const double took = now_us() - begin;
  want(s->streams->stream_download(s->stream, x, s->buffer, w->at.x, w->d * 4, &error), &error,
       "download");
  finish_plugin(s);
  return took;
}

/* Pieces as KV is staged: each a copy of its own in the stream. */
static double rate_of_pieces(plugin_side *s, const probe *p, bool to_host) {
  const uint64_t n_pieces = p->small ? 4 : 512;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *device = NULL, *staging = NULL;
  double begin = 0;
  want(s->memory->memory_allocate(s->device, n_pieces * PIECE_BYTES, CS_MEMORY_DEVICE, &device,
                                  &error),
       &error, "memory_allocate");
  want(s->memory->memory_allocate(s->device, n_pieces * PIECE_BYTES, CS_MEMORY_STAGING, &staging,
                                  &error),
       &error, "memory_allocate");
  cs_plugin_memory *const to = to_host ? staging : device, *const from = to_host ? device : staging;
  for (int round = 0; round < 2; round++) { /* the first warms up */
    begin = now_us();
    for (uint64_t i = 0; i < n_pieces; i++)
      want(s->streams->stream_copy(s->stream, to, i * PIECE_BYTES, from, i * PIECE_BYTES,
                                   PIECE_BYTES, &error),
           &error, "stream_copy");
    finish_plugin(s);
  }
  const double took_us = now_us() - begin;
  s->memory->memory_free(s->device, device);
  s->memory->memory_free(s->device, staging);
  return (double)(n_pieces * PIECE_BYTES) / took_us * 1e6;
}

static void unload_plugin(plugin_side *s) {
  s->programs->program_destroy(s->program);
  for (uint32_t layer = 0; layer < N_LAYERS; layer++)
    for (uint32_t i = 0; i < N_WEIGHTS; i++)
      s->memory->memory_free(s->device, s->weights[layer][i]);
  s->memory->memory_free(s->device, s->buffer);
  s->memory->memory_free(s->device, s->norm);
  s->streams->stream_destroy(s->stream);
  s->semaphores->semaphore_destroy(s->semaphore);
  s->devices->device_close(s->device);
  s->devices->instance_destroy(s->instance);
}

/* ---- by hand ---- */

typedef struct hand_side {
  const probe *p;
  CUmodule module;
  CUgraph graph;
  CUgraphExec exec;
  CUgraphNode last;
  uint32_t n_kernels;
  CUdeviceptr buffer, norm, weights[N_LAYERS][N_WEIGHTS];
  __typeof__(&cuGraphCreate) create;
  __typeof__(&cuGraphAddKernelNode) add;
} hand_side;

static void add_node(hand_side *s, const char *kernel, uint64_t grid_x, uint64_t grid_y,
                     uint32_t threads, void *args) {
  CUfunction function;
  CUgraphNode node;
  void *arguments[] = {args};
  probe_check(s->p, s->p->driver.ModuleGetFunction(&function, s->module, kernel), kernel);
  const CUDA_KERNEL_NODE_PARAMS params = {.func = function,
                                          .gridDimX = (unsigned)grid_x,
                                          .gridDimY = (unsigned)grid_y,
                                          .gridDimZ = 1,
                                          .blockDimX = threads,
                                          .blockDimY = 1,
                                          .blockDimZ = 1,
                                          .kernelParams = arguments};
  probe_check(s->p,
              s->add(&node, s->graph, s->n_kernels ? &s->last : NULL, s->n_kernels > 0, &params),
              "cuGraphAddKernelNode");
  s->last = node;
  s->n_kernels++;
}

static cuda_rows rows(const hand_side *s, uint64_t offset, uint64_t n) {
  return (cuda_rows){(void *)(uintptr_t)(s->buffer + offset), n};
}

static void node_norm(hand_side *s, const bench *w) {
  cuda_norm_args args = {.out = rows(s, w->at.h, w->d),
                         .x = rows(s, w->at.x, w->d),
                         .weight = (void *)(uintptr_t)s->norm,
                         .n_columns = w->d,
                         .epsilon = 1e-5f};
  add_node(s, "rms_norm", 1, 1, CUDA_THREADS, &args);
}

static void node_matmul(hand_side *s, CUdeviceptr weight, const weight_source *shape, uint64_t out,
                        uint64_t in, bool residual) {
  const uint64_t quants = shape->n_out * shape->n_in;
  cuda_matmul_args args = {.out = rows(s, out, shape->n_out),
                           .x = rows(s, in, shape->n_in),
                           .weight = {.data = (void *)(uintptr_t)weight,
                                      .scales = (void *)(uintptr_t)(weight + quants),
                                      .row_bytes = shape->n_in,
                                      .scale_row_bytes = shape->n_in / 16,
                                      .dtype = CUDA_Q8_0},
                           .n = 1,
                           .n_out = (uint32_t)shape->n_out,
                           .n_in = (uint32_t)shape->n_in,
                           .k = 1,
                           .x_share = 1,
                           .n_experts = 1,
                           .x_aligned = 1};
  if (residual) args.residual = args.out;
  const uint64_t block_rows = CUDA_VECTOR_WARPS * CUDA_VECTOR_ROWS(1);
  add_node(s, "matmul_vector_q8_0_1", (shape->n_out + block_rows - 1) / block_rows, 1,
           CUDA_VECTOR_THREADS, &args);
}

static void node_layer(hand_side *s, const bench *w, const CUdeviceptr weights[N_WEIGHTS]) {
  const places *at = &w->at;
  node_norm(s, w);
  node_matmul(s, weights[0], &w->weights[0], at->a, at->h, false);
  node_matmul(s, weights[1], &w->weights[1], at->x, at->a, true);
  node_norm(s, w);
  node_matmul(s, weights[2], &w->weights[2], at->g, at->h, false);
  node_matmul(s, weights[3], &w->weights[3], at->u, at->h, false);
  cuda_binary_args args = {.out = rows(s, at->s, w->f),
                           .a = rows(s, at->g, w->f),
                           .b = rows(s, at->u, w->f),
                           .n_columns = w->f,
                           .mode = CUDA_SILU};
  add_node(s, "binary", 1, (w->f + CUDA_SPAN - 1) / CUDA_SPAN, CUDA_THREADS, &args);
  node_matmul(s, weights[4], &w->weights[4], at->x, at->s, true);
}

static CUdeviceptr upload_weight(const probe *p, const weight_source *w) {
  const uint64_t quants = w->n_out * w->n_in, bytes = quants + quants / 16;
  unsigned char *laid = malloc(bytes);
  if (!laid) probe_stop("replay", "out of memory");
  for (uint64_t i = 0; i < quants / 32; i++) {
    memcpy(laid + i * 32, w->gguf + i * 34 + 2, 32);
    memcpy(laid + quants + i * 2, w->gguf + i * 34, 2);
  }
  const CUdeviceptr address = probe_allocate(p, bytes);
  probe_check(p, p->driver.MemcpyHtoD(address, laid, bytes), "cuMemcpyHtoD");
  free(laid);
  return address;
}

static void make_graph(hand_side *s, const bench *w) {
  const cuda_driver *driver = &s->p->driver;
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  *(void **)&s->create = dlsym(library, "cuGraphCreate");
  *(void **)&s->add = dlsym(library, "cuGraphAddKernelNode_v2");
  if (!s->create || !s->add) probe_stop("driver", "no cuGraphAddKernelNode");
  probe_check(s->p, driver->ModuleLoadData(&s->module, cuda_kernels_image), "cuModuleLoadData");
  probe_check(s->p, s->create(&s->graph, 0), "cuGraphCreate");
  float *ones = malloc(w->d * 4);
  if (!ones) probe_stop("replay", "out of memory");
  for (uint64_t i = 0; i < w->d; i++)
    ones[i] = 1;
  s->buffer = probe_allocate(s->p, w->at.bytes);
  s->norm = probe_allocate(s->p, w->d * 4);
  probe_check(s->p, driver->MemcpyHtoD(s->norm, ones, w->d * 4), "cuMemcpyHtoD");
  free(ones);
  for (uint32_t layer = 0; layer < N_LAYERS; layer++)
    for (uint32_t i = 0; i < N_WEIGHTS; i++)
      s->weights[layer][i] = upload_weight(s->p, &w->weights[i]);
  for (uint32_t i = 0; i < w->n_rounds * N_LAYERS; i++)
    node_layer(s, w, s->weights[i % N_LAYERS]);
  probe_check(s->p, driver->GraphInstantiate(&s->exec, s->graph, 0), "cuGraphInstantiate");
}

static double launch_graph(const hand_side *s, const bench *w, float *x) {
  const cuda_driver *driver = &s->p->driver;
  probe_check(s->p, driver->MemcpyHtoD(s->buffer + w->at.x, w->first_x, w->d * 4), "cuMemcpyHtoD");
  const double begin = now_us();
  probe_check(s->p, driver->GraphLaunch(s->exec, s->p->stream), "cuGraphLaunch");
  probe_check(s->p, driver->StreamSynchronize(s->p->stream), "cuStreamSynchronize");
  const double took = now_us() - begin;
  probe_check(s->p, driver->MemcpyDtoH(x, s->buffer + w->at.x, w->d * 4), "cuMemcpyDtoH");
  return took;
}

/* ---- both ---- */

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *times, uint32_t n) {
  qsort(times, n, sizeof *times, compare);
  return times[n / 2];
}

void probe_run_replay(const probe *p, const char *path, probe_replay *out) {
  const uint32_t n = p->small ? 3 : N_TIMES;
  bench w = {.p = p};
  plugin_side plugin = {.signalled = 0};
  hand_side hand = {.p = p};
  double plugin_us[N_TIMES], graph_us[N_TIMES];
  prepare(&w);
  float *x = malloc(w.d * 4), *y = malloc(w.d * 4);
  if (!x || !y) probe_stop("replay", "out of memory");
  load_plugin(&plugin, path);
  make_program(&plugin, &w);
  make_graph(&hand, &w);
  for (uint32_t i = 0; i < n; i++) {
    plugin_us[i] = launch_program(&plugin, &w, x);
    graph_us[i] = launch_graph(&hand, &w, y);
  }
  *out = (probe_replay){.plugin_us = median(plugin_us, n),
                        .graph_us = median(graph_us, n),
                        .n_kernels = hand.n_kernels,
                        .equal = memcmp(x, y, w.d * 4) == 0,
                        .to_device_bytes_per_s = rate_of_pieces(&plugin, p, false),
                        .to_host_bytes_per_s = rate_of_pieces(&plugin, p, true)};
  unload_plugin(&plugin);
  for (uint32_t i = 0; i < N_WEIGHTS; i++)
    free(w.weights[i].gguf);
  free(w.first_x);
  free(x);
  free(y);
}
