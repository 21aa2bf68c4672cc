/* attention_paged: ragged batches of prefill and decode rows, padding sequences, scattered blocks,
 * grouped heads. Slots that no sequence owns hold NaN, so that reading one shows. */
#include <math.h>
#include <stdio.h>

#include "format.h"
#include "kvtest.h"
#include "registry.h"

#define MAX_SEQS    8
#define QUICK_SHARE 4 /* a quick run picks one of so many shapes, others each time */

typedef struct head_shape {
  uint64_t n_heads, n_kv_heads, k_width, v_width;
} head_shape;

/* A sequence: rows of this step, and positions in the cache, those rows included. */
typedef struct batch_shape {
  uint64_t n_seqs;
  uint64_t rows[MAX_SEQS], lengths[MAX_SEQS];
  uint64_t spare_rows; /* rows after the last sequence, which nobody owns */
} batch_shape;

#define WITH_WINDOW 1u
#define WITH_CAP    2u
#define WITH_SINKS  4u

static const head_shape heads[] = {{1, 1, 8, 8},     {8, 4, 8, 8},   {4, 1, 16, 16},
                                   {8, 1, 64, 64},   {2, 2, 80, 80}, {4, 2, 128, 128},
                                   {2, 1, 256, 256}, {32, 8, 64, 64}};
static const batch_shape batches[] = {
    {1, {1}, {1}, 0},                             /* the first token */
    {1, {7}, {7}, 0},                             /* a prefill */
    {1, {1}, {77}, 0},                            /* a decode step */
    {4, {1, 5, 0, 17}, {40, 5, 9, 33}, 0},        /* both at once, one without rows */
    {5, {1, 1, 1, 1, 1}, {1, 16, 17, 130, 0}, 2}, /* the last one is padding */
    {3, {33, 2, 1}, {64, 300, 319}, 1}};          /* long caches */
#define N_HEADS   (sizeof heads / sizeof heads[0])
#define N_BATCHES (sizeof batches / sizeof batches[0])

typedef struct attention_test {
  uint32_t kv_dtype, q_dtype, layout, features;
  uint64_t block;
  const head_shape *h;
  const batch_shape *b;
} attention_test;

static uint64_t blocks_of(uint64_t length, uint64_t block) {
  return (length + block - 1) / block;
}

/* Fills table, offsets and lengths; marks the cache rows that a sequence owns. */
static void fill_batch(kit *k, const attention_test *a, double *table, uint64_t table_width,
                       double *offsets, double *lengths, uint64_t n_blocks, bool *owned) {
  double *blocks = kit_host_memory(k, n_blocks * sizeof *blocks);
  kv_random_blocks(k, blocks, n_blocks, n_blocks);
  uint64_t next = 0, row = 0;
  for (uint64_t s = 0; s < a->b->n_seqs; s++) {
    offsets[s] = (double)row;
    row += a->b->rows[s];
    lengths[s] = (double)a->b->lengths[s];
    for (uint64_t i = 0; i < table_width; i++) {
      const bool is_used = i < blocks_of(a->b->lengths[s], a->block);
      table[s * table_width + i] = is_used ? blocks[next++] : -1;
    }
    for (uint64_t p = 0; p < a->b->lengths[s]; p++)
      owned[(uint64_t)table[s * table_width + p / a->block] * a->block + p % a->block] = true;
  }
  offsets[a->b->n_seqs] = (double)row;
}

static void forget_rows(double *cache, const bool *owned, uint64_t n_slots, uint64_t row_width) {
  for (uint64_t slot = 0; slot < n_slots; slot++)
    for (uint64_t i = 0; i < row_width && !owned[slot]; i++)
      cache[slot * row_width + i] = NAN;
}

static void run_shape(kit *k, const attention_test *a) {
  const batch_shape *b = a->b;
  const head_shape *h = a->h;
  uint64_t n = b->spare_rows, n_blocks = 2, table_width = 1;
  for (uint64_t s = 0; s < b->n_seqs; s++) {
    const uint64_t n_used = blocks_of(b->lengths[s], a->block);
    n += b->rows[s];
    n_blocks += n_used;
    if (n_used + 1 > table_width) table_width = n_used + 1;
  }
  const uint64_t n_offsets = b->n_seqs + 1, n_slots = n_blocks * a->block;
  const cs_attention_params params = {.struct_size = sizeof params,
                                      .scale = 1 / sqrtf((float)h->k_width),
                                      .soft_cap = a->features & WITH_CAP ? 20 : 0,
                                      .window = a->features & WITH_WINDOW ? 21 : 0};
  optest *t = optest_begin(k, CS_OP_ATTENTION_PAGED, &params);
  optest_operand(t, 0, a->q_dtype, 3, (uint64_t[]){n, h->n_heads, h->v_width});
  optest_operand(t, 1, a->q_dtype, 3, (uint64_t[]){n, h->n_heads, h->k_width});
  double *k_cache = optest_cache(t, 2, a->kv_dtype, a->layout,
                                 (uint64_t[]){n_blocks, a->block, h->n_kv_heads, h->k_width});
  double *v_cache = optest_cache(t, 3, a->kv_dtype, a->layout,
                                 (uint64_t[]){n_blocks, a->block, h->n_kv_heads, h->v_width});
  double *table = optest_operand(t, 4, CS_DTYPE_I32, 2, (uint64_t[]){b->n_seqs, table_width});
  double *offsets = optest_operand(t, 5, CS_DTYPE_I32, 1, &n_offsets);
  double *lengths = optest_operand(t, 6, CS_DTYPE_I32, 1, &b->n_seqs);
  if (a->features & WITH_SINKS) {
    optest_operand(t, 7, CS_DTYPE_F32, 1, &h->n_heads);
    optest_fill_bell(t, 7, 2);
  }
  optest_fill_bell(t, 1, 2);
  optest_fill_bell(t, 2, 1);
  optest_fill_bell(t, 3, 1);
  t->operands[0].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  bool *owned = kit_host_memory(k, n_slots * sizeof *owned);
  fill_batch(k, a, table, table_width, offsets, lengths, n_blocks, owned);
  forget_rows(k_cache, owned, n_slots, h->n_kv_heads * h->k_width);
  forget_rows(v_cache, owned, n_slots, h->n_kv_heads * h->v_width);
  char what[128];
  snprintf(what, sizeof what, "block=%llu n_heads=%llu n_kv_heads=%llu width=%llu batch %d",
           (unsigned long long)a->block, (unsigned long long)h->n_heads,
           (unsigned long long)h->n_kv_heads, (unsigned long long)h->k_width, (int)(b - batches));
  optest_run(t, what);
}

static void attention_case(kit *k, const kit_case *c) {
  attention_test a = {.kv_dtype = c->dtype,
                      .q_dtype = c->argument >> 8 & 255,
                      .layout = kv_layout(k, c->argument & 15),
                      .features = c->argument >> 4 & 15};
  if (a.layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  for (uint64_t block = 0; (block = kv_next_block(k, block)) != 0;)
    for (size_t i = 0; i < N_HEADS; i++)
      for (size_t j = 0; j < N_BATCHES; j++) {
        if (k->options->quick && rng_below(&k->rng, QUICK_SHARE) != 0) continue;
        a.block = block;
        a.h = &heads[i];
        a.b = &batches[j];
        run_shape(k, &a);
      }
}

/* Keys and values of different widths. */
static void uneven_case(kit *k, const kit_case *c) {
  static const head_shape uneven[] = {{4, 2, 48, 32}, {8, 1, 64, 128}};
  attention_test a = {.kv_dtype = c->dtype, .q_dtype = CS_DTYPE_F32, .layout = kv_layout(k, 0)};
  if (a.layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  a.block = kv_next_block(k, 0);
  for (size_t i = 0; i < 2; i++)
    for (size_t j = 0; j < N_BATCHES; j++) {
      a.h = &uneven[i];
      a.b = &batches[j];
      run_shape(k, &a);
    }
}

void kit_add_attention_cases(kit_registry *r) {
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16, CS_DTYPE_F8_E4M3,
                                    CS_DTYPE_I8};
  static const struct {
    const char *name;
    uint32_t bits;
  } features[] = {{"window", WITH_WINDOW}, {"soft_cap", WITH_CAP}, {"sinks", WITH_SINKS}};
  kit_case c = {.op_id = CS_OP_ATTENTION_PAGED, .run = attention_case};
  const uint32_t f32_rows = CS_DTYPE_F32 << 8;
  for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
    c.dtype = dtypes[i];
    for (uint32_t layout = 0; layout <= CS_LAYOUT_KV_HEAD_MINOR; layout++) {
      if (layout == CS_LAYOUT_PACKED) continue;
      c.badges = layout == 0 && i < 2 ? KIT_BADGE_LLM_DENSE : 0;
      c.argument = layout | f32_rows;
      kit_add(r, &c, "attention_paged/%s/%s", format_name(c.dtype), kv_layout_name(layout));
    }
    c.badges = 0;
    c.run = uneven_case;
    kit_add(r, &c, "attention_paged/%s/uneven_widths", format_name(c.dtype));
    c.run = attention_case;
    if (i == 0 || i >= 3) continue;
    c.argument = dtypes[i] << 8;
    kit_add(r, &c, "attention_paged/%s/%s_rows", format_name(c.dtype), format_name(c.dtype));
  }
  c.dtype = CS_DTYPE_F16;
  for (size_t i = 0; i < 3; i++) {
    c.argument = features[i].bits << 4 | f32_rows;
    kit_add(r, &c, "attention_paged/f16/%s", features[i].name);
  }
}
