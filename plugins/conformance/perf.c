/* A sample enqueues a list of equal ops at once and waits for the last, so that what is measured is
 * the op and not the wait. Two warm-up samples are dropped. */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "representative.h"

#define OPS_A_SAMPLE   8
#define MAX_SAMPLES    200
#define WARMUP_SAMPLES 2
#define COPY_BYTES     (64u << 20)
#define COPIES_BYTES   (96u << 20)

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct samples {
  double seconds[MAX_SAMPLES];
  size_t n;
} samples;

static double percentile(samples *s, double share) {
  qsort(s->seconds, s->n, sizeof s->seconds[0], compare_doubles);
  return s->seconds[(size_t)(share * (double)(s->n - 1) + 0.5)];
}

static double budget_seconds(const kit *k) {
  return k->options->quick ? 0.03 : 0.3;
}

/* Weights are packed several times, so that no cache holds what the last op read: a model does not
 * read a weight twice in a row either. */
static void build_ops(optest *t, cs_op ops[OPS_A_SAMPLE],
                      cs_tensor operands[OPS_A_SAMPLE][CS_MAX_OPERANDS]) {
  const bool is_matmul = t->id == CS_OP_MATMUL || t->id == CS_OP_MOE_MATMUL;
  const optest_tensor *weight = &t->operands[2];
  const uint64_t bytes = is_matmul ? format_bytes(weight->tensor.dtype, weight->count) : 0;
  cs_plugin_memory *copies[OPS_A_SAMPLE];
  size_t n_copies = 0;
  while (is_matmul && n_copies < OPS_A_SAMPLE && n_copies * bytes < COPIES_BYTES) {
    copies[n_copies] = n_copies == 0 ? weight->packed : optest_pack_again(t, 2);
    n_copies++;
  }
  for (size_t i = 0; i < OPS_A_SAMPLE; i++) {
    ops[i] = optest_op(t, operands[i]);
    if (n_copies) operands[i][2].memory = copies[i % n_copies];
  }
}

static void sample_op(kit *k, optest *t, samples *s) {
  cs_tensor operands[OPS_A_SAMPLE][CS_MAX_OPERANDS];
  cs_op ops[OPS_A_SAMPLE];
  build_ops(t, ops, operands);
  cs_plugin_program *program = NULL;
  cs_error error = CS_ERROR_INIT;
  if (!k->plugin.eager.ops_enqueue) {
    kit_check_ok(k,
                 k->plugin.program.program_create(k->device, ops, OPS_A_SAMPLE, sizeof ops[0],
                                                  t->workspace, &program, &error),
                 &error, "program_create");
    kit_track(k, KIT_PROGRAM, program);
  }
  const double begin = kit_now_seconds();
  for (size_t i = 0; i < MAX_SAMPLES + WARMUP_SAMPLES; i++) {
    const double start = kit_now_seconds();
    if (i > WARMUP_SAMPLES + 4 && start - begin > budget_seconds(k)) break;
    const cs_status status = program
                                 ? k->plugin.program.program_launch(kit_stream(k), program, &error)
                                 : k->plugin.eager.ops_enqueue(kit_stream(k), ops, OPS_A_SAMPLE,
                                                               sizeof ops[0], t->workspace, &error);
    kit_check_ok(k, status, &error, "enqueueing");
    kit_finish(k);
    if (i >= WARMUP_SAMPLES) s->seconds[s->n++] = (kit_now_seconds() - start) / OPS_A_SAMPLE;
  }
}

/* The body of one measurement; runs as a case, so that a failure ends it alone. */
static void measure_case(kit *k, const kit_case *c) {
  representative r;
  if (!representative_build(k, c->op_id, c->dtype, (representative_size)c->argument, &r)) {
    kit_unsupported(k, "no shape");
    return;
  }

  if (!optest_query(r.test, r.shape)) return;
  optest_place(r.test);
  kit_upload(k, r.test->memory, 0, r.test->before, r.test->arena_bytes);
  samples s = {.n = 0};
  sample_op(k, r.test, &s);
  kit_timing *timing = &k->board->timings[k->board->n_timings++];
  *timing = (kit_timing){.op_id = c->op_id,
                         .dtype = c->dtype,
                         .p50_us = percentile(&s, 0.5) * 1e6,
                         .p99_us = percentile(&s, 0.99) * 1e6,
                         .bytes = r.bytes,
                         .flops = r.flops};
  memcpy(timing->shape, r.shape, sizeof timing->shape);
}

static void copy_case(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_memory *from = kit_memory(k, COPY_BYTES), *to = kit_memory(k, COPY_BYTES);
  cs_error error = CS_ERROR_INIT;
  samples s = {.n = 0};
  for (int i = 0; i < 12; i++) {
    const double start = kit_now_seconds();
    kit_check_ok(k, k->plugin.stream.stream_copy(kit_stream(k), to, 0, from, 0, COPY_BYTES, &error),
                 &error, "stream_copy");
    kit_finish(k);
    if (i >= WARMUP_SAMPLES) s.seconds[s.n++] = kit_now_seconds() - start;
  }
  k->board->copy_bytes_per_s = 2.0 * COPY_BYTES / percentile(&s, 0);
}

static bool passed(const kit_registry *registry, const kit_board *board, size_t index) {
  const kit_case *c = &registry->cases[index];
  return c->op_id != 0 && board->results[index].status == KIT_PASSED;
}

void kit_measure(kit *k, const kit_registry *registry) {
  kit_result scratch;
  bool any = false;
  if (!k->options->measure) return;
  k->is_timing = true;
  for (size_t i = 0; i < registry->n_cases; i++) {
    if (!passed(registry, k->board, i)) continue;
    kit_case c = registry->cases[i];
    if (kit_timing_find(k->board, c.op_id, c.dtype)) continue;
    if (!any) {
      const kit_case copy = {.run = copy_case};
      kit_run_case(k, &copy, &scratch);
      any = true;
    }
    c.run = measure_case;
    for (uint32_t size = REPRESENTATIVE_DECODE; size <= REPRESENTATIVE_PREFILL; size++) {
      if (k->board->n_timings == KIT_MAX_TIMINGS) return;
      c.argument = size;
      kit_run_case(k, &c, &scratch);
    }
  }
}

const kit_timing *kit_timing_find(const kit_board *board, uint32_t op_id, uint32_t dtype) {
  for (uint32_t i = 0; i < board->n_timings; i++)
    if (board->timings[i].op_id == op_id && board->timings[i].dtype == dtype)
      return &board->timings[i];
  return NULL;
}

void kit_roofline(const kit_board *board, double *bytes_per_s, double *flops_per_s) {
  *bytes_per_s = board->copy_bytes_per_s;
  *flops_per_s = 0;
  for (uint32_t i = 0; i < board->n_timings; i++) {
    const kit_timing *timing = &board->timings[i];
    const double bytes = timing->bytes / timing->p50_us * 1e6;
    const double flops = timing->flops / timing->p50_us * 1e6;
    if (bytes > *bytes_per_s) *bytes_per_s = bytes;
    if (flops > *flops_per_s) *flops_per_s = flops;
  }
}

double kit_roofline_fraction(const kit_board *board, const kit_timing *timing) {
  double bytes_per_s, flops_per_s;
  kit_roofline(board, &bytes_per_s, &flops_per_s);
  const double by_bytes = bytes_per_s > 0 ? timing->bytes / bytes_per_s : 0;
  const double by_flops = flops_per_s > 0 ? timing->flops / flops_per_s : 0;
  return (by_bytes > by_flops ? by_bytes : by_flops) * 1e6 / timing->p50_us;
}
