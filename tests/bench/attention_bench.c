/* The rate of attention_paged of the CPU plugin alone, through its tables, on the shape of llama-1b
 * (32 query heads, 8 KV heads, 64 wide, blocks of 16 tokens): whole prompts against the peak of the
 * arithmetic that the op's error class names, and single rows over long contexts against a plain
 * read of the same bytes. Peaks and reads come from loops that are no kernels, in turn with the op.
 *
 *   attention_bench [KERNEL [LONGEST [BF16]]]    generic, avx2, avx512; tokens; auto or never
 *
 * Prints one JSON object a line. Multiply-adds of keys that the causal mask hides do not count. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "consort/half.h"
#include "cpu_harness.h"
#include "scheduler/probe_host.h"

#define HEADS        32
#define KV_HEADS     8
#define WIDTH        64
#define BLOCK        16
#define CACHE_TOKENS 65536 /* of both planes together 128 MiB or more: no cache holds them */
#define ROUNDS       5
#define PAIRS        11
#define THREADS      "2"

static const char *const dtype_names[] = {"f32", "f16", "bf16"};
static cs_error error = CS_ERROR_INIT;

static void must(cs_status status, const char *what) {
  if (status == CS_OK) return;
  fprintf(stderr, "attention_bench: %s: %s\n", what, error.message);
  exit(1);
}

static double now_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* ---- operands ---- */

typedef struct bench {
  cpu_harness harness;
  uint32_t dtype;
  uint64_t n_tokens; /* of the planes */
  cs_tensor planes[2];
} bench;

static cs_tensor random_plane(bench *b) {
  const uint64_t dims[4] = {b->n_tokens / BLOCK, BLOCK, KV_HEADS, WIDTH};
  cs_tensor plane = harness_tensor(&b->harness, b->dtype, NULL, 0, 4, dims);
  plane.layout = CS_LAYOUT_KV_HEAD_MAJOR;
  void *data = harness_row(&b->harness, &plane, 0);
  for (size_t i = 0; i < b->n_tokens * KV_HEADS * WIDTH; i++) {
    const float x = (float)harness_uniform();
    if (b->dtype == CS_DTYPE_F32)
      ((float *)data)[i] = x;
    else
      ((uint16_t *)data)[i] = b->dtype == CS_DTYPE_F16 ? cs_f16_from_f32(x) : cs_bf16_from_f32(x);
  }
  return plane;
}

/* n rows at the end of a context. */
typedef struct call {
  cs_tensor operands[8];
  cs_attention_params params;
} call;

static call make_call(bench *b, uint64_t n, uint64_t context) {
  const uint64_t n_blocks = (context + BLOCK - 1) / BLOCK, two = 2, one = 1;
  const int32_t offsets[2] = {0, (int32_t)n}, length = (int32_t)context;
  float *q = malloc(n * HEADS * WIDTH * sizeof *q);
  if (!q) exit(1);
  harness_fill(q, n * HEADS * WIDTH);
  const uint64_t rows[3] = {n, HEADS, WIDTH}, table[2] = {1, n_blocks};
  call c = {.operands = {harness_tensor(&b->harness, CS_DTYPE_F32, NULL, 0, 3, rows),
                         harness_tensor(&b->harness, CS_DTYPE_F32, q, 0, 3, rows),
                         b->planes[0],
                         b->planes[1],
                         harness_tensor(&b->harness, CS_DTYPE_I32, NULL, 0, 2, table),
                         harness_tensor(&b->harness, CS_DTYPE_I32, offsets, 0, 1, &two),
                         harness_tensor(&b->harness, CS_DTYPE_I32, &length, 0, 1, &one),
                         {.struct_size = sizeof(cs_tensor)}},
            .params = {.struct_size = sizeof c.params, .scale = 0.125f}};
  free(q);
  return c;
}

static void free_call(bench *b, call *c) {
  c->operands[2].memory = c->operands[3].memory = NULL;
  harness_free(&b->harness, c->operands, 8);
}

/* Seconds of one run; the context begins at block `first` of the planes. */
static double run(bench *b, call *c, uint64_t first) {
  int32_t *table = harness_row(&b->harness, &c->operands[4], 0);
  for (uint64_t i = 0; i < c->operands[4].dims[1]; i++)
    table[i] = (int32_t)(first + i);
  const double begin = now_seconds();
  must(harness_run(&b->harness, CS_OP_ATTENTION_PAGED, c->operands, 8, &c->params, &error),
       "attention_paged");
  return now_seconds() - begin;
}

/* ---- measurements ---- */

/* The median of rounds that alternate with the peak loop; the best peak is the limit. */
static void bench_prefill(bench *b, uint64_t context) {
  call c = make_call(b, context, context);
  cs_op_answer answer;
  harness_allows(&b->harness, CS_OP_ATTENTION_PAGED, c.operands, 8, &c.params, &answer);
  const bool is_half = answer.error_class == CS_ERROR_HALF;
  double seconds[ROUNDS], peak = 0;
  run(b, &c, 0);
  for (int i = 0; i < ROUNDS; i++) {
    double rate;
    must(cs_host_peak(0, is_half ? CS_HOST_BF16 : CS_HOST_F32, &rate, &error), "peak");
    peak = rate > peak ? rate : peak;
    seconds[i] = run(b, &c, 0);
  }
  qsort(seconds, ROUNDS, sizeof *seconds, compare);
  const double flop = 2.0 * (double)context * (double)(context + 1) * HEADS * WIDTH;
  const double rate = flop / seconds[ROUNDS / 2];
  printf("{\"test\": \"prefill\", \"kv\": \"%s\", \"tokens\": %llu, \"ms\": %.2f, "
         "\"gflop_per_s\": %.1f, \"arithmetic\": \"%s\", \"peak_gflop_per_s\": %.1f, "
         "\"share\": %.3f}\n",
         dtype_names[b->dtype - CS_DTYPE_F32], (unsigned long long)context,
         seconds[ROUNDS / 2] * 1e3, rate / 1e9, is_half ? "bf16" : "f32", peak / 1e9,
         rate / (peak > rate ? peak : rate));
  fflush(stdout);
  free_call(b, &c);
}

/* All contexts that fit the planes, one after the other, against one read of the planes. */
static void bench_decode(bench *b, uint64_t context) {
  call c = make_call(b, 1, context);
  const size_t plane_bytes = cs_sdk_tensor_stride(&b->planes[0]) * (b->n_tokens / BLOCK);
  const cs_host_range ranges[2] = {{harness_row(&b->harness, &b->planes[0], 0), plane_bytes},
                                   {harness_row(&b->harness, &b->planes[1], 0), plane_bytes}};
  cs_host_reader *reader;
  must(cs_host_reader_create(0, ranges, 2, &reader, &error), "reader");
  double shares[PAIRS], rates[PAIRS];
  for (int i = 0; i < PAIRS; i++) {
    double read_rate, seconds = 0;
    must(cs_host_reader_pass(reader, &read_rate, &error), "read");
    for (uint64_t at = 0; at < b->n_tokens; at += context)
      seconds += run(b, &c, at / BLOCK);
    rates[i] = 2 * (double)plane_bytes / seconds;
    shares[i] = rates[i] / read_rate;
  }
  qsort(shares, PAIRS, sizeof *shares, compare);
  qsort(rates, PAIRS, sizeof *rates, compare);
  printf("{\"test\": \"decode\", \"kv\": \"%s\", \"tokens\": %llu, \"gb_per_s\": %.1f, "
         "\"share_of_read\": %.3f, \"quartiles\": [%.3f, %.3f]}\n",
         dtype_names[b->dtype - CS_DTYPE_F32], (unsigned long long)context, rates[PAIRS / 2] / 1e9,
         shares[PAIRS / 2], shares[PAIRS / 4], shares[PAIRS - 1 - PAIRS / 4]);
  fflush(stdout);
  cs_host_reader_destroy(reader);
  free_call(b, &c);
}

int main(int argc, char **argv) {
  const char *const kernel = argc > 1 ? argv[1] : "avx512";
  const uint64_t longest = argc > 2 ? strtoull(argv[2], NULL, 10) : 8192;
  static const uint64_t prompts[] = {512, 1023, 1024, 1025, 2048, 4096, 8192};
  for (uint32_t dtype = CS_DTYPE_F32; dtype <= CS_DTYPE_BF16; dtype++) {
    bench b = {.dtype = dtype, .n_tokens = longest < 8192 ? longest + BLOCK : CACHE_TOKENS};
    if (!harness_open_rounding(&b.harness, kernel, THREADS, argc > 3 ? argv[3] : "auto")) {
      printf("this machine cannot run %s\n", kernel);
      return 77;
    }
    for (int i = 0; i < 2; i++)
      b.planes[i] = random_plane(&b);
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
      if (prompts[i] <= longest) bench_prefill(&b, prompts[i]);
    for (uint64_t context = 8192; longest >= 8192 && context <= 32768; context *= 4)
      bench_decode(&b, context);
    harness_free(&b.harness, b.planes, 2);
    harness_close(&b.harness);
  }
  return 0;
}
