/* kv_write, kv_gather, kv_scatter and kv_copy_blocks: exact ops, compared bit for bit over every
 * layout, block size and dtype that the device lists. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "kvtest.h"
#include "registry.h"

#define QUICK_SHARE 3 /* a quick run picks one of so many shapes, others each time */

typedef struct kv_shape {
  uint64_t n_heads, k_width, v_width;
} kv_shape;

static const uint32_t kv_dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16, CS_DTYPE_F8_E4M3,
                                     CS_DTYPE_I8};
#define N_KV_DTYPES (sizeof kv_dtypes / sizeof kv_dtypes[0])

static const kv_shape kv_shapes[] = {{1, 8, 8}, {4, 8, 8}, {2, 64, 64}, {8, 16, 16}, {3, 80, 80}};
#define N_KV_SHAPES (sizeof kv_shapes / sizeof kv_shapes[0])

static void describe(char *to, size_t bytes, uint64_t block, const kv_shape *s, uint64_t n) {
  snprintf(to, bytes, "block=%llu n_kv_heads=%llu width=%llu n=%llu", (unsigned long long)block,
           (unsigned long long)s->n_heads, (unsigned long long)s->k_width, (unsigned long long)n);
}

/* Two planes as operands `index` and `index + 1`; those of 8 bits with a gap between blocks now and
 * then. */
static void planes(optest *t, uint32_t index, uint32_t dtype, uint32_t layout, uint64_t n_blocks,
                   uint64_t block, const kv_shape *s, double scale) {
  optest_cache(t, index, dtype, layout, (uint64_t[]){n_blocks, block, s->n_heads, s->k_width});
  optest_cache(t, index + 1, dtype, layout, (uint64_t[]){n_blocks, block, s->n_heads, s->v_width});
  for (uint32_t i = index; i < index + 2; i++) {
    kv_fill(t, i, scale);
    if (format_bytes(dtype, 1) == 1)
      t->operands[i].gap_elements = 4 * (uint32_t)rng_below(&t->k->rng, 3);
  }
}

/* ---- kv_write ---- */

static void write_shape(kit *k, const kit_case *c, uint32_t row_dtype, uint32_t layout,
                        uint64_t block, const kv_shape *s, uint64_t n) {
  const uint64_t n_blocks = 4;
  optest *t = optest_begin(k, CS_OP_KV_WRITE, NULL);
  optest_operand(t, 0, row_dtype, 3, (uint64_t[]){n, s->n_heads, s->k_width});
  optest_operand(t, 1, row_dtype, 3, (uint64_t[]){n, s->n_heads, s->v_width});
  optest_fill_bell(t, 0, 2);
  optest_fill_bell(t, 1, 2);
  t->operands[0].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  planes(t, 2, c->dtype, layout, n_blocks, block, s, 1);
  double *slots = optest_operand(t, 4, CS_DTYPE_I32, 1, &n);
  kv_random_blocks(k, slots, n, n_blocks * block);
  for (uint64_t i = 0; i < n; i++)
    if (n > 1 && rng_below(&k->rng, 4) == 0) slots[i] = -1;
  char what[96];
  describe(what, sizeof what, block, s, n);
  optest_run(t, what);
}

static void write_case(kit *k, const kit_case *c) {
  const uint32_t layout = kv_layout(k, c->argument & 15);
  if (layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  const uint32_t row_dtype = c->argument >> 4;
  static const uint64_t rows[] = {1, 2, 5, 17, 33};
  for (uint64_t block = 0; (block = kv_next_block(k, block)) != 0;)
    for (size_t i = 0; i < N_KV_SHAPES; i++)
      for (size_t j = 0; j < sizeof rows / sizeof rows[0]; j++)
        write_shape(k, c, row_dtype, layout, block, &kv_shapes[i], rows[j]);
}

/* Every row is padding: nothing may change. */
static void write_padding(kit *k, const kit_case *c) {
  const uint32_t layout = kv_layout(k, 0);
  const uint64_t block = kv_next_block(k, 0), n = 6;
  if (layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  optest *t = optest_begin(k, CS_OP_KV_WRITE, NULL);
  optest_operand(t, 0, CS_DTYPE_F32, 3, (uint64_t[]){n, 2, 16});
  optest_operand(t, 1, CS_DTYPE_F32, 3, (uint64_t[]){n, 2, 16});
  planes(t, 2, c->dtype, layout, 3, block, &(kv_shape){2, 16, 16}, 1);
  double *slots = optest_operand(t, 4, CS_DTYPE_I32, 1, &n);
  for (uint64_t i = 0; i < n; i++)
    slots[i] = -1;
  optest_run(t, "every slot is -1");
}

/* Rows at the ends of what a format of 8 bits holds: nothing, the smallest, the largest, the
 * middles between two neighbours, and what is no number. */
static void write_edges(kit *k, const kit_case *c) {
  static const double rows[][4] = {{0, -0.0, 0, 0},
                                   {127, 0.5, 1.5, -2.5},
                                   {-127, 126.5, -126.5, 0.25},
                                   {448, 464, 465, -480},
                                   {0x1p-10, 0x1.8p-9, 0x1p-6, -0x1.dp-7},
                                   {0x1p-130, 0, 0, 0},
                                   {0x1p-122, 0x1p-126, 0, 0},
                                   {0x1.fffffep127, -0x1p126, 1, 0},
                                   {NAN, 1, 2, 3},
                                   {1, 2, -INFINITY, 3},
                                   {1, -1, 17, 0x1p-20}};
  const uint64_t n = sizeof rows / sizeof rows[0], width = 8;
  const uint32_t layout = kv_layout(k, 0);
  const uint64_t block = kv_next_block(k, 0);
  if (layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  optest *t = optest_begin(k, CS_OP_KV_WRITE, NULL);
  for (uint32_t plane = 0; plane < 2; plane++) {
    double *x = optest_operand(t, plane, CS_DTYPE_F32, 3, (uint64_t[]){n, 1, width});
    for (uint64_t i = 0; i < n * width; i++)
      x[i] = rows[i / width][i % 4] * (i % width >= 4 ? 1 - 2.0 * plane : 1);
  }
  planes(t, 2, c->dtype, layout, 3, block, &(kv_shape){1, width, width}, 1);
  double *slots = optest_operand(t, 4, CS_DTYPE_I32, 1, &n);
  kv_random_blocks(k, slots, n, 3 * block);
  optest_run(t, "rows at the ends of the format");
}

/* ---- kv_gather and kv_scatter ---- */

/* Elements of a wire for so many tokens; of int8 they are bytes, scales included. */
static uint64_t wire_elements_of(uint32_t dtype, uint64_t n_tokens, const kv_shape *s) {
  const uint64_t scales = dtype == CS_DTYPE_I8 ? 2 * sizeof(float) : 0;
  return n_tokens * s->n_heads * (s->k_width + s->v_width + scales);
}

typedef struct piece {
  uint64_t first, n, capacity; /* capacity: tokens that the wire tensor holds */
} piece;

static void move_shape(kit *k, const kit_case *c, uint32_t wire_dtype, uint32_t layout,
                       uint64_t block, const kv_shape *s, const piece *p) {
  const uint64_t n_blocks = 7, one = 1, two = 2;
  const uint64_t wire_elements = wire_elements_of(wire_dtype, p->capacity, s);
  optest *t = optest_begin(k, c->op_id, NULL);
  optest_operand(t, 0, wire_dtype, 1, &wire_elements);
  optest_operand(t, 1, CS_DTYPE_U64, 1, &one);
  planes(t, 2, c->dtype, layout, n_blocks, block, s, 1);
  double *table = optest_operand(t, 4, CS_DTYPE_I32, 2, (uint64_t[]){1, 5});
  double *range = optest_operand(t, 5, CS_DTYPE_I32, 1, &two);
  kv_random_blocks(k, table, 5, n_blocks);
  for (uint64_t i = (p->first + p->n + block - 1) / block; i < 5; i++)
    table[i] = -1;
  range[0] = (double)p->first;
  range[1] = (double)p->n;
  if (c->op_id == CS_OP_KV_SCATTER) optest_fill_bell(t, 0, 1);
  char what[128];
  describe(what, sizeof what, block, s, p->n);
  optest_run(t, what);
}

static void move_case(kit *k, const kit_case *c) {
  const uint32_t layout = kv_layout(k, c->argument & 15), wire_dtype = c->argument >> 4;
  const bool is_8_bit = format_bytes(c->dtype, 1) == 1 || format_bytes(wire_dtype, 1) == 1;
  const uint64_t share = is_8_bit ? 4 * QUICK_SHARE : QUICK_SHARE; /* there are many pairs */
  if (layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  for (uint64_t block = 0; (block = kv_next_block(k, block)) != 0;) {
    const piece pieces[] = {{0, 1, 1},
                            {0, block, block},
                            {block - 1, 2, 5},
                            {3, block + 5, 2 * block},
                            {0, 3 * block + 7, 4 * block},
                            {2 * block, block, block}};
    for (size_t i = 0; i < N_KV_SHAPES; i++)
      for (size_t j = 0; j < sizeof pieces / sizeof pieces[0]; j++) {
        if (k->options->quick && rng_below(&k->rng, share) != 0) continue;
        move_shape(k, c, wire_dtype, layout, block, &kv_shapes[i], &pieces[j]);
      }
  }
}

/* A plane alone, as latent attention keeps it: no V. */
static void move_one_plane(kit *k, const kit_case *c) {
  const uint32_t layout = kv_layout(k, 0);
  const uint64_t block = kv_next_block(k, 0), wire_elements = 20 * 2 * 32, one = 1, two = 2;
  if (layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  optest *t = optest_begin(k, c->op_id, NULL);
  optest_operand(t, 0, c->dtype, 1, &wire_elements);
  optest_operand(t, 1, CS_DTYPE_U64, 1, &one);
  optest_cache(t, 2, c->dtype, layout, (uint64_t[]){4, block, 2, 32});
  kv_fill(t, 2, 1);
  double *table = optest_operand(t, 4, CS_DTYPE_I32, 2, (uint64_t[]){1, 3});
  double *range = optest_operand(t, 5, CS_DTYPE_I32, 1, &two);
  kv_random_blocks(k, table, 3, 4);
  range[0] = 1;
  range[1] = 19;
  if (c->op_id == CS_OP_KV_SCATTER) optest_fill_bell(t, 0, 1);
  optest_run(t, "one plane");
}

/* ---- kv_copy_blocks ---- */

static void copy_blocks_case(kit *k, const kit_case *c) {
  const uint32_t layout = kv_layout(k, c->argument & 15);
  if (layout == CS_LAYOUT_PLAIN || !kv_has_dtype(k, c->dtype)) return;
  for (uint64_t block = 0; (block = kv_next_block(k, block)) != 0;)
    for (size_t i = 0; i < N_KV_SHAPES; i++) {
      const uint64_t n_blocks = 9, n = 4;
      optest *t = optest_begin(k, CS_OP_KV_COPY_BLOCKS, NULL);
      planes(t, 0, c->dtype, layout, n_blocks, block, &kv_shapes[i], 1);
      double *pairs = optest_operand(t, 2, CS_DTYPE_I32, 2, (uint64_t[]){n, 2});
      kv_random_blocks(k, pairs, 2 * n, n_blocks); /* sources and targets are all different */
      pairs[2] = pairs[3] = -1;
      char what[96];
      describe(what, sizeof what, block, &kv_shapes[i], n);
      optest_run(t, what);
    }
}

/* ---- registration ---- */

static void add_writes(kit_registry *r) {
  for (size_t i = 0; i < N_KV_DTYPES; i++)
    for (uint32_t layout = 0; layout <= CS_LAYOUT_KV_HEAD_MINOR; layout++) {
      if (layout == CS_LAYOUT_PACKED) continue;
      kit_case c = {.badges = layout == 0 && i < 2 ? KIT_BADGE_LLM_DENSE : 0,
                    .op_id = CS_OP_KV_WRITE,
                    .dtype = kv_dtypes[i],
                    .argument = layout | CS_DTYPE_F32 << 4,
                    .run = write_case};
      kit_add(r, &c, "kv_write/%s/%s", format_name(c.dtype), kv_layout_name(layout));
      if (layout == 0 && i >= 3) {
        c.run = write_edges;
        kit_add(r, &c, "kv_write/%s/edges", format_name(c.dtype));
      }
      if (layout != 0 || i == 0 || i >= 3) continue;
      c.badges = 0;
      c.argument = kv_dtypes[i] << 4;
      kit_add(r, &c, "kv_write/%s/%s_rows", format_name(c.dtype), format_name(c.dtype));
    }
  kit_add(r,
          &(kit_case){.badges = KIT_BADGE_LLM_DENSE,
                      .op_id = CS_OP_KV_WRITE,
                      .dtype = CS_DTYPE_F16,
                      .run = write_padding},
          "kv_write/f16/padding");
}

static void add_move(kit_registry *r, uint32_t op_id, uint32_t cache, uint32_t wire,
                     uint32_t layout) {
  const uint64_t halves = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16);
  const bool is_required = layout == 0 && halves >> cache & halves >> wire & 1;
  const kit_case c = {.badges = is_required ? KIT_BADGE_DISAGGREGATED : 0,
                      .op_id = op_id,
                      .dtype = cache,
                      .argument = layout | wire << 4,
                      .run = move_case};
  kit_add(r, &c, "%s/%s/%s_wire/%s", op_name(op_id), format_name(cache), format_name(wire),
          kv_layout_name(layout));
}

/* Every pair of formats; the pairs with F32 in every layout. */
static void add_moves(kit_registry *r, uint32_t op_id) {
  for (size_t i = 0; i < N_KV_DTYPES * N_KV_DTYPES; i++) {
    const uint32_t cache = kv_dtypes[i / N_KV_DTYPES], wire = kv_dtypes[i % N_KV_DTYPES];
    const bool usual = cache == wire || cache == CS_DTYPE_F32 || wire == CS_DTYPE_F32;
    for (uint32_t layout = 0; layout <= (usual ? CS_LAYOUT_KV_HEAD_MINOR : 0); layout++)
      if (layout != CS_LAYOUT_PACKED) add_move(r, op_id, cache, wire, layout);
  }
  kit_add(r, &(kit_case){.op_id = op_id, .dtype = CS_DTYPE_F16, .run = move_one_plane},
          "%s/f16/one_plane", op_name(op_id));
}

void kit_add_kv_cases(kit_registry *r) {
  add_writes(r);
  add_moves(r, CS_OP_KV_GATHER);
  add_moves(r, CS_OP_KV_SCATTER);
  for (size_t i = 0; i < N_KV_DTYPES; i++)
    for (uint32_t layout = 0; layout <= CS_LAYOUT_KV_HEAD_MINOR; layout++) {
      if (layout == CS_LAYOUT_PACKED) continue;
      const kit_case c = {.badges = layout == 0 && i < 2 ? KIT_BADGE_DISAGGREGATED : 0,
                          .op_id = CS_OP_KV_COPY_BLOCKS,
                          .dtype = kv_dtypes[i],
                          .argument = layout,
                          .run = copy_blocks_case};
      kit_add(r, &c, "kv_copy_blocks/%s/%s", format_name(c.dtype), kv_layout_name(layout));
    }
}
