/* Two plugins at once (--pair): KV gathered on the first is scattered on the second and gathered
 * again there. Bytes and sums have to be the same, whatever layout and block size each side has. */
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "kvtest.h"
#include "optest_internal.h"
#include "registry.h"

#define N_TOKENS 150 /* more than one block of every size */
#define FIRST    5

typedef struct wire {
  double *values;
  uint64_t count;
  uint64_t sum;
} wire;

typedef struct side {
  kit *k;
  uint64_t block;
  uint32_t layout;
} side;

typedef struct shape {
  uint32_t dtype;
  uint64_t n_heads, k_width, v_width;
} shape;

/* A kv_gather or kv_scatter of N_TOKENS tokens on one side. */
static optest *build(const side *s, const shape *h, uint32_t op_id, const double *wire_values) {
  kit *k = s->k;
  const uint64_t n_used = (FIRST + N_TOKENS + s->block - 1) / s->block, n_blocks = n_used + 2;
  const uint64_t count = N_TOKENS * h->n_heads * (h->k_width + h->v_width), one = 1, two = 2;
  optest *t = optest_begin(k, op_id, NULL);
  double *values = optest_operand(t, 0, h->dtype, 1, &count);
  if (wire_values) memcpy(values, wire_values, count * sizeof *values);
  optest_operand(t, 1, CS_DTYPE_U64, 1, &one);
  for (uint32_t i = 0; i < 2; i++) {
    optest_cache(t, 2 + i, h->dtype, s->layout,
                 (uint64_t[]){n_blocks, s->block, h->n_heads, i ? h->v_width : h->k_width});
    optest_fill_bell(t, 2 + i, 1);
  }
  double *table = optest_operand(t, 4, CS_DTYPE_I32, 2, (uint64_t[]){1, n_used});
  kv_random_blocks(k, table, n_used, n_blocks);
  double *range = optest_operand(t, 5, CS_DTYPE_I32, 1, &two);
  range[0] = FIRST;
  range[1] = N_TOKENS;
  return t;
}

static uint64_t sum_of(const optest *t) {
  uint64_t sum;
  memcpy(&sum, t->after + t->operands[1].tensor.offset_bytes, sizeof sum);
  return sum;
}

static void read_wire(const optest *t, wire *w) {
  const cs_tensor *tensor = &t->operands[0].tensor;
  const size_t bytes = format_bytes(tensor->dtype, 1);
  w->count = t->operands[0].count;
  w->values = kit_host_memory(t->k, w->count * sizeof *w->values);
  for (uint64_t i = 0; i < w->count; i++)
    w->values[i] = format_decode(tensor->dtype, t->after + tensor->offset_bytes + i * bytes);
  w->sum = sum_of(t);
}

static bool run(optest *t, const char *what) {
  if (!optest_query(t, what)) return false;
  optest_place(t);
  optest_execute(t, what);
  return true;
}

/* The planes that a scatter left behind become those of a gather with the same table. */
static void take_planes(optest *gather, const optest *scatter) {
  for (uint32_t i = 2; i < 5; i++) {
    const cs_tensor *tensor = &scatter->operands[i].tensor;
    const unsigned char *window = scatter->after + tensor->offset_bytes;
    for (uint64_t j = 0; j < scatter->operands[i].count; j++)
      gather->operands[i].values[j] =
          format_decode(tensor->dtype, window + optest_element_offset(tensor, j));
  }
}

static bool round_trip(const side *from, const side *to, const shape *h, const char *what) {
  wire sent, returned;
  optest *gather = build(from, h, CS_OP_KV_GATHER, NULL);
  if (!run(gather, what)) return false;
  read_wire(gather, &sent);
  optest *scatter = build(to, h, CS_OP_KV_SCATTER, sent.values);
  if (!run(scatter, what)) return false;
  optest *again = build(to, h, CS_OP_KV_GATHER, NULL);
  take_planes(again, scatter);
  if (!run(again, what)) return false;
  read_wire(again, &returned);
  kit *k = from->k;
  kit_check(k, sum_of(scatter) == sent.sum && returned.sum == sent.sum, "%s: the sums differ",
            what);
  kit_check(k, memcmp(sent.values, returned.values, sent.count * sizeof *sent.values) == 0,
            "%s: the KV that comes back differs", what);
  return true;
}

static bool both_ways(const side *a, const side *b, const shape *h) {
  char what[160];
  snprintf(what, sizeof what, "%s in blocks of %llu and %s in blocks of %llu, %llu heads of %llu",
           kv_layout_name(a->layout), (unsigned long long)a->block, kv_layout_name(b->layout),
           (unsigned long long)b->block, (unsigned long long)h->n_heads,
           (unsigned long long)h->k_width);
  return round_trip(a, b, h, what) && round_trip(b, a, h, what);
}

static uint64_t largest_block(const kit *k) {
  uint64_t largest = 0;
  for (uint64_t next = 0; (next = kv_next_block(k, next)) != 0;)
    largest = next;
  return largest;
}

/* A quick run leaves out the sizes between the smallest and the largest. */
static bool is_skipped(const kit *k, uint64_t block) {
  return k->options->quick && block != kv_next_block(k, 0) && block != largest_block(k);
}

static void all_blocks(kit *k, kit *other, const shape *h) {
  for (uint64_t a = 0; (a = kv_next_block(k, a)) != 0;)
    for (uint64_t b = 0; (b = kv_next_block(other, b)) != 0;) {
      if (is_skipped(k, a) || is_skipped(other, b)) continue;
      const side mine = {k, a, k->properties.kv_layout};
      const side theirs = {other, b, other->properties.kv_layout};
      if (!both_ways(&mine, &theirs, h)) return;
    }
}

/* Every layout of one side with every one of the other, small blocks meeting large ones. */
static void all_layouts(kit *k, kit *other, const shape *h) {
  for (uint32_t a = 0; a < 32; a++)
    for (uint32_t b = 0; b < 32; b++) {
      if (!(k->properties.kv_layouts & CS_LAYOUT_BIT(a))) continue;
      if (!(other->properties.kv_layouts & CS_LAYOUT_BIT(b))) continue;
      const side small = {k, kv_next_block(k, 0), a}, large = {k, largest_block(k), a};
      const side their_small = {other, kv_next_block(other, 0), b};
      const side their_large = {other, largest_block(other), b};
      if (!both_ways(&small, &their_large, h) || !both_ways(&large, &their_small, h)) return;
    }
}

static void pair_case(kit *k, const kit_case *c) {
  static const uint64_t shapes[][3] = {{2, 64, 64}, {3, 16, 16}, {1, 128, 128}};
  if (!kv_has_dtype(k, c->dtype)) return;
  kit *other = kit_other(k, k->options->pair_path);
  if (!kv_has_dtype(other, c->dtype)) return;
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    const shape h = {c->dtype, shapes[i][0], shapes[i][1], shapes[i][2]};
    all_blocks(k, other, &h);
    if (i == 0) all_layouts(k, other, &h);
  }
}

void kit_add_pair_cases(kit_registry *r) {
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16};
  for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
    kit_add(r, &(kit_case){.dtype = dtypes[i], .run = pair_case}, "pair/kv/%s",
            format_name(dtypes[i]));
}
