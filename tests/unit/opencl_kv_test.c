/* The ops on the KV cache, on both kernel variants: attention against float64, everything else bit
 * for bit. */
#include "opencl_harness.h"

static harness h;

static const uint32_t kv_dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16};
static const uint32_t kv_layouts[] = {CS_LAYOUT_KV_TOKEN_MAJOR, CS_LAYOUT_KV_HEAD_MAJOR};

/* ---- cache planes ---- */

typedef struct cache {
  field field; /* a row is a block, with guard elements between blocks */
  uint32_t layout;
  size_t blocks, tokens, heads, width;
} cache;

static cache cache_make(uint32_t dtype, uint32_t layout, size_t blocks, size_t tokens, size_t heads,
                        size_t width) {
  cache c = {.layout = layout, .blocks = blocks, .tokens = tokens, .heads = heads, .width = width};
  c.field = field_random(dtype, blocks, tokens * heads * width, 4);
  c.field.tensor.layout = layout;
  c.field.tensor.rank = 4;
  const uint64_t dims[] = {blocks, tokens, heads, width};
  memcpy(c.field.tensor.dims, dims, sizeof dims);
  return c;
}

/* Index within a block. */
static size_t cache_index(const cache *c, size_t token, size_t head, size_t i) {
  if (c->layout == CS_LAYOUT_KV_TOKEN_MAJOR) return (token * c->heads + head) * c->width + i;
  return (head * c->tokens + token) * c->width + i;
}

/* Bits of an element of data (as uploaded) or after. */
static uint32_t cache_bits(const cache *c, unsigned char *base, size_t block, size_t token,
                           size_t head, size_t i) {
  uint32_t bits = 0;
  memcpy(&bits, field_at(&c->field, base, block, cache_index(c, token, head, i)),
         c->field.element_bytes);
  return bits;
}

/* ---- kv_write ---- */

static uint32_t convert_bits(uint32_t to, double value) {
  const float single = (float)value;
  return to == CS_DTYPE_F32   ? cs_f32_to_bits(single)
         : to == CS_DTYPE_F16 ? cs_f16_from_f32(single)
                              : cs_bf16_from_f32(single);
}

static void check_write(uint32_t dtype, uint32_t layout, size_t width_k, size_t width_v) {
  const size_t n = 9, heads = 3, blocks = 4, tokens = 16;
  field k = field_random(CS_DTYPE_F32, n, heads * width_k, 1);
  field v = field_random(CS_DTYPE_F32, n, heads * (width_v ? width_v : 1), 2);
  cache caches[2] = {cache_make(dtype, layout, blocks, tokens, heads, width_k),
                     cache_make(dtype, layout, blocks, tokens, heads, width_v ? width_v : 1)};
  field slots = field_make(CS_DTYPE_I32, 1, n, 0);
  static const int slot_of[] = {0, 17, -1, 63, 15, 16, 40, -1, 5};
  for (size_t i = 0; i < n; i++)
    field_set(&slots, 0, i, slot_of[i]);
  field_shape3(&k, heads);
  field_shape3(&v, heads);
  field_vector(&slots);
  field *all[] = {&k, &v, &caches[0].field, &caches[1].field, &slots};
  for (size_t i = 0; i < 5; i++)
    field_upload(&h, all[i]);
  const cs_tensor operands[] = {k.tensor, width_v ? v.tensor : no_tensor, caches[0].field.tensor,
                                width_v ? caches[1].field.tensor : no_tensor, slots.tensor};
  run_op(&h, CS_OP_KV_WRITE, operands, 5, NULL);
  for (size_t plane = 0; plane < (width_v ? 2 : 1); plane++) {
    cache *c = &caches[plane];
    field_download(&h, &c->field);
    for (size_t slot = 0; slot < blocks * tokens; slot++) {
      size_t row = n;
      for (size_t i = 0; i < n; i++)
        if (slot_of[i] == (int)slot) row = i;
      for (size_t e = 0; e < heads * c->width; e++) {
        const size_t head = e / c->width, i = e % c->width;
        const uint32_t before = cache_bits(c, c->field.data, slot / tokens, slot % tokens, head, i);
        const uint32_t want =
            row < n ? convert_bits(dtype, field_get(plane ? &v : &k, row, e)) : before;
        assert_int_equal(cache_bits(c, c->field.after, slot / tokens, slot % tokens, head, i),
                         want);
      }
    }
  }
  for (size_t i = 0; i < 5; i++)
    field_free(&h, all[i]);
}

static void kv_write_fills_its_slots_and_no_others(void **state) {
  (void)state;
  for (size_t t = 0; t < 3; t++)
    for (size_t l = 0; l < 2; l++) {
      check_write(kv_dtypes[t], kv_layouts[l], 64, 64);
      check_write(kv_dtypes[t], kv_layouts[l], 9, 33);
      check_write(kv_dtypes[t], kv_layouts[l], 8, 0);
    }
}

/* ---- attention ---- */

typedef struct attention_case {
  uint32_t dtype, layout;
  size_t kv_heads, group, k_width, v_width, block_tokens;
  float soft_cap;
  uint32_t window;
  bool sinks;
} attention_case;

#define N_SEQUENCES  4
#define TABLE_BLOCKS 6

/* Rows of each sequence, and its keys: a prompt, one token over a long context, nothing, a part. */
static const int sequence_rows[N_SEQUENCES] = {7, 1, 0, 3};
static const int sequence_keys[N_SEQUENCES] = {7, 61, 0, 35};

typedef struct attention_fields {
  field q, out, table, offsets, lengths, sinks;
  cache k, v;
} attention_fields;

static attention_fields attention_make(const attention_case *a, size_t rows) {
  const size_t blocks = N_SEQUENCES * TABLE_BLOCKS, heads = a->kv_heads * a->group;
  attention_fields f = {
      .q = field_random(CS_DTYPE_F32, rows, heads * a->k_width, 2),
      .out = field_make(CS_DTYPE_F32, rows, heads * a->v_width, 3),
      .table = field_make(CS_DTYPE_I32, N_SEQUENCES, TABLE_BLOCKS, 1),
      .offsets = field_make(CS_DTYPE_I32, 1, N_SEQUENCES + 1, 0),
      .lengths = field_make(CS_DTYPE_I32, 1, N_SEQUENCES, 0),
      .sinks = field_random(CS_DTYPE_F32, 1, heads, 0),
      .k = cache_make(a->dtype, a->layout, blocks, a->block_tokens, a->kv_heads, a->k_width),
      .v = cache_make(a->dtype, a->layout, blocks, a->block_tokens, a->kv_heads, a->v_width)};
  int offset = 0;
  for (size_t s = 0; s < N_SEQUENCES; s++) {
    field_set(&f.offsets, 0, s, offset);
    field_set(&f.lengths, 0, s, sequence_keys[s]);
    offset += sequence_rows[s];
    for (size_t b = 0; b < TABLE_BLOCKS; b++) /* blocks of all sequences are interleaved */
      field_set(&f.table, s, b, (double)(((TABLE_BLOCKS - 1 - b) * N_SEQUENCES + s)));
  }
  field_set(&f.offsets, 0, N_SEQUENCES, offset);
  field_shape3(&f.q, heads);
  field_shape3(&f.out, heads);
  field_vector(&f.offsets);
  field_vector(&f.lengths);
  field_vector(&f.sinks);
  return f;
}

static double cache_value(const cache *c, const field *table, size_t s, size_t position,
                          size_t head, size_t i) {
  const size_t block = (size_t)field_get(table, s, position / c->tokens);
  return field_get(&c->field, block, cache_index(c, position % c->tokens, head, i));
}

/* One row and head in float64, into out(v_width). */
static void reference_head(const attention_case *a, const attention_fields *f, size_t s, size_t row,
                           size_t position, size_t head, double scale, double *out) {
  double scores[256], top = a->sinks ? field_get(&f->sinks, 0, head) : -INFINITY;
  const size_t first = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
  for (size_t p = first; p <= position; p++) {
    double score = 0;
    for (size_t i = 0; i < a->k_width; i++)
      score += field_get(&f->q, row, head * a->k_width + i) *
               cache_value(&f->k, &f->table, s, p, head / a->group, i);
    score *= scale;
    if (a->soft_cap != 0) score = (double)a->soft_cap * tanh(score / (double)a->soft_cap);
    scores[p] = score;
    top = fmax(top, score);
  }
  double total = a->sinks ? exp(field_get(&f->sinks, 0, head) - top) : 0;
  for (size_t p = first; p <= position; p++)
    total += exp(scores[p] - top);
  for (size_t i = 0; i < a->v_width; i++) {
    out[i] = 0;
    for (size_t p = first; p <= position; p++)
      out[i] +=
          exp(scores[p] - top) / total * cache_value(&f->v, &f->table, s, p, head / a->group, i);
  }
}

static void check_attention(const attention_case *a) {
  const size_t used = 11, rows = used + 2, heads = a->kv_heads * a->group; /* two rows of padding */
  attention_fields f = attention_make(a, rows);
  const cs_attention_params params = {.struct_size = sizeof params,
                                      .scale = 1.5f / sqrtf((float)a->k_width),
                                      .soft_cap = a->soft_cap,
                                      .window = a->window};
  field *all[] = {&f.q, &f.out, &f.table, &f.offsets, &f.lengths, &f.sinks, &f.k.field, &f.v.field};
  for (size_t i = 0; i < 8; i++)
    field_upload(&h, all[i]);
  const cs_tensor operands[] = {
      f.out.tensor,   f.q.tensor,       f.k.field.tensor, f.v.field.tensor,
      f.table.tensor, f.offsets.tensor, f.lengths.tensor, a->sinks ? f.sinks.tensor : no_tensor};
  run_op(&h, CS_OP_ATTENTION_PAGED, operands, 8, &params);
  field_download(&h, &f.out);
  double *reference = malloc(rows * heads * a->v_width * sizeof *reference);
  size_t row = 0;
  for (size_t s = 0; s < N_SEQUENCES; s++)
    for (int r = 0; r < sequence_rows[s]; r++, row++)
      for (size_t head = 0; head < heads; head++)
        reference_head(a, &f, s, row, (size_t)(sequence_keys[s] - sequence_rows[s] + r), head,
                       (double)params.scale, reference + (row * heads + head) * a->v_width);
  const field before = f.out;
  for (size_t r = used; r < rows; r++)
    for (size_t i = 0; i < f.out.columns; i++)
      assert_memory_equal(field_at(&before, f.out.after, r, i), field_at(&before, f.out.data, r, i),
                          4);
  field part = f.out;
  part.rows = used;
  char what[96];
  snprintf(what, sizeof what, "attention dtype %u layout %u widths %zu %zu group %zu", a->dtype,
           a->layout, a->k_width, a->v_width, a->group);
  check_nmse(&part, reference, CS_NMSE_LIMIT_F32, what);
  free(reference);
  for (size_t i = 0; i < 8; i++)
    field_free(&h, all[i]);
}

static void attention_agrees_on_ragged_batches(void **state) {
  (void)state;
  static const size_t widths[][2] = {{8, 8},     {64, 64},   {17, 17}, {1, 3},
                                     {128, 128}, {256, 256}, {96, 40}};
  static const size_t groups[] = {1, 2, 4, 8, 3, 1, 2};
  for (size_t w = 0; w < 7; w++)
    for (size_t t = 0; t < 3; t++) {
      attention_case a = {.dtype = kv_dtypes[t],
                          .layout = kv_layouts[(w + t) % 2],
                          .kv_heads = 2,
                          .group = groups[w],
                          .k_width = widths[w][0],
                          .v_width = widths[w][1],
                          .block_tokens = (size_t)16 << (w + t) % 4};
      if (chosen(a.k_width * a.group * 200)) check_attention(&a);
    }
}

static void attention_serves_window_cap_and_sinks(void **state) {
  (void)state;
  for (uint32_t i = 1; i < 8; i++) {
    attention_case a = {.dtype = kv_dtypes[i % 3],
                        .layout = kv_layouts[i % 2],
                        .kv_heads = 2,
                        .group = 2,
                        .k_width = 32,
                        .v_width = 32,
                        .block_tokens = 16,
                        .soft_cap = i & 1 ? 0.5f : 0.0f,
                        .window = i & 2 ? 5 + 14 * (i & 1) : 0,
                        .sinks = i & 4};
    if (chosen(100)) check_attention(&a);
  }
}

/* ---- kv_gather, kv_scatter ---- */

static uint64_t reference_sum(const unsigned char *bytes, size_t n) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i += 4) {
    uint32_t word = 0;
    memcpy(&word, bytes + i, n - i < 4 ? n - i : 4);
    uint64_t z = ((uint64_t)(i / 4) << 32 | word) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    sum += z ^ z >> 31;
  }
  return sum;
}

typedef struct move_case {
  uint32_t from_dtype, wire_dtype, to_dtype;
  uint32_t from_layout, to_layout;
  size_t from_tokens, to_tokens; /* a block */
  size_t heads, k_width, v_width;
  int first, count;
} move_case;

static uint64_t field_sum(const field *sum) {
  uint64_t value;
  memcpy(&value, sum->after + GUARD_BYTES, sizeof value);
  return value;
}

/* Moves count tokens of one cache to the wire (gather) or back. */
static void run_move(uint32_t id, const field *wire, const field *sum, const cache *k,
                     const cache *v, const move_case *m) {
  const size_t blocks = k->blocks;
  field table = field_make(CS_DTYPE_I32, 1, blocks, 0), range = field_make(CS_DTYPE_I32, 1, 2, 0);
  for (size_t b = 0; b < blocks; b++)
    field_set(&table, 0, b, (double)(blocks - 1 - b));
  field_set(&range, 0, 0, m->first);
  field_set(&range, 0, 1, m->count);
  field_vector(&range);
  field_upload(&h, &table);
  field_upload(&h, &range);
  const cs_tensor operands[] = {wire->tensor,    sum->tensor,
                                k->field.tensor, m->v_width ? v->field.tensor : no_tensor,
                                table.tensor,    range.tensor};
  run_op(&h, id, operands, 6, NULL);
  field_free(&h, &table);
  field_free(&h, &range);
}

static size_t blocks_for(const move_case *m, size_t tokens) {
  return ((size_t)(m->first + m->count) + tokens - 1) / tokens;
}

/* The wire in the order of the op table, from the cache as uploaded. */
static void check_wire(const field *wire, const cache *caches, const move_case *m) {
  size_t at = 0;
  for (size_t plane = 0; plane < (m->v_width ? 2 : 1); plane++) {
    const cache *c = &caches[plane];
    for (size_t e = 0; e < c->heads * (size_t)m->count * c->width; e++, at++) {
      const size_t head = e / c->width / (size_t)m->count;
      const size_t token = (size_t)m->first + e / c->width % (size_t)m->count;
      const size_t block = c->blocks - 1 - token / c->tokens;
      const size_t index = cache_index(c, token % c->tokens, head, e % c->width);
      const uint32_t want = convert_bits(m->wire_dtype, field_get(&c->field, block, index));
      uint32_t got = 0;
      memcpy(&got, field_at(wire, wire->after, 0, at), wire->element_bytes);
      assert_int_equal(got, want);
    }
  }
  for (; at < wire->columns; at++) /* nothing is written past the range */
    assert_memory_equal(field_at(wire, wire->after, 0, at), field_at(wire, wire->data, 0, at),
                        wire->element_bytes);
}

static void check_move(const move_case *m) {
  const size_t widths[2] = {m->k_width, m->v_width ? m->v_width : 1};
  cache from[2], to[2];
  for (size_t p = 0; p < 2; p++) {
    from[p] = cache_make(m->from_dtype, m->from_layout, blocks_for(m, m->from_tokens),
                         m->from_tokens, m->heads, widths[p]);
    to[p] = cache_make(m->to_dtype, m->to_layout, blocks_for(m, m->to_tokens), m->to_tokens,
                       m->heads, widths[p]);
    field_upload(&h, &from[p].field);
    field_upload(&h, &to[p].field);
  }
  const size_t token_elements = m->heads * (m->k_width + m->v_width);
  field wire = field_make(m->wire_dtype, 1, token_elements * ((size_t)m->count + 2), 0);
  field sums[2] = {field_make(CS_DTYPE_U64, 1, 1, 0), field_make(CS_DTYPE_U64, 1, 1, 0)};
  field_vector(&wire);
  field_upload(&h, &wire);
  for (size_t i = 0; i < 2; i++) {
    field_vector(&sums[i]);
    field_upload(&h, &sums[i]);
  }
  run_move(CS_OP_KV_GATHER, &wire, &sums[0], &from[0], &from[1], m);
  run_move(CS_OP_KV_SCATTER, &wire, &sums[1], &to[0], &to[1], m);
  field *results[] = {&wire, &sums[0], &sums[1], &to[0].field, &to[1].field};
  for (size_t i = 0; i < 5; i++)
    field_download(&h, results[i]);
  check_wire(&wire, from, m);
  const uint64_t want = reference_sum(wire.after + GUARD_BYTES,
                                      token_elements * (size_t)m->count * wire.element_bytes);
  assert_true(field_sum(&sums[0]) == want && field_sum(&sums[1]) == want);
  for (size_t p = 0; p < (m->v_width ? 2 : 1); p++) {
    const cache *a = &from[p], *b = &to[p];
    for (size_t token = 0; token < b->blocks * b->tokens; token++) {
      const bool moved = (int)token >= m->first && (int)token < m->first + m->count;
      for (size_t e = 0; e < m->heads * a->width; e++) {
        const size_t head = e / a->width, i = e % a->width;
        const size_t block = b->blocks - 1 - token / b->tokens;
        uint32_t expected = cache_bits(b, b->field.data, block, token % b->tokens, head, i);
        if (moved) {
          const double value = field_get(&a->field, a->blocks - 1 - token / a->tokens,
                                         cache_index(a, token % a->tokens, head, i));
          const uint32_t on_wire = convert_bits(m->wire_dtype, value);
          const double back = m->wire_dtype == CS_DTYPE_F32 ? (double)cs_f32_from_bits(on_wire)
                              : m->wire_dtype == CS_DTYPE_F16
                                  ? (double)cs_f32_from_f16((uint16_t)on_wire)
                                  : (double)cs_f32_from_bf16((uint16_t)on_wire);
          expected = convert_bits(m->to_dtype, back);
        }
        assert_int_equal(cache_bits(b, b->field.after, block, token % b->tokens, head, i),
                         expected);
      }
    }
  }
  for (size_t i = 0; i < 5; i++)
    field_free(&h, results[i]);
  field_free(&h, &from[0].field);
  field_free(&h, &from[1].field);
}

static void kv_moves_round_trip_between_blocks_layouts_and_dtypes(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 18; i++) {
    const move_case m = {.from_dtype = kv_dtypes[i % 3],
                         .wire_dtype = kv_dtypes[i / 3 % 3],
                         .to_dtype = kv_dtypes[(i + i / 3) % 3],
                         .from_layout = kv_layouts[i % 2],
                         .to_layout = kv_layouts[i / 2 % 2],
                         .from_tokens = (size_t)16 << i % 4,
                         .to_tokens = (size_t)128 >> i % 4,
                         .heads = 1 + i % 3,
                         .k_width = i % 2 ? 9 : 64,
                         .v_width = i % 5 == 4 ? 0
                                    : i % 2    ? 5
                                               : 64,
                         /* A table has a block, also where nothing of it is moved. */
                         .first = (int)(random_word() % 40) + (i == 7),
                         .count = i == 7 ? 0 : 1 + (int)(random_word() % 70)};
    if (chosen((size_t)m.count * m.heads * m.k_width * 20)) check_move(&m);
  }
}

static void a_flipped_wire_bit_changes_the_sum(void **state) {
  (void)state;
  const move_case m = {.heads = 2, .k_width = 8, .v_width = 8, .first = 0, .count = 16};
  cache caches[2];
  for (size_t p = 0; p < 2; p++) {
    caches[p] = cache_make(CS_DTYPE_F16, CS_LAYOUT_KV_HEAD_MAJOR, 1, 16, 2, 8);
    field_upload(&h, &caches[p].field);
  }
  field wire = field_random(CS_DTYPE_F16, 1, 2 * 16 * 16, 0),
        sum = field_make(CS_DTYPE_U64, 1, 1, 0);
  uint64_t sums[2];
  field_vector(&wire);
  field_vector(&sum);
  for (size_t i = 0; i < 2; i++) {
    field_upload(&h, &wire);
    field_upload(&h, &sum);
    run_move(CS_OP_KV_SCATTER, &wire, &sum, &caches[0], &caches[1], &m);
    field_download(&h, &sum);
    sums[i] = field_sum(&sum);
    wire.data[GUARD_BYTES + random_word() % (2 * 16 * 16 * 2)] ^= 1;
  }
  assert_true(sums[0] != sums[1]);
  field_free(&h, &wire);
  field_free(&h, &sum);
  field_free(&h, &caches[0].field);
  field_free(&h, &caches[1].field);
}

static void kv_copy_blocks_copies_only_its_pairs(void **state) {
  (void)state;
  for (size_t t = 0; t < 3; t++) {
    cache c[2] = {cache_make(kv_dtypes[t], CS_LAYOUT_KV_HEAD_MAJOR, 6, 16, 3, 9),
                  cache_make(kv_dtypes[t], CS_LAYOUT_KV_HEAD_MAJOR, 6, 16, 3, 5)};
    field pairs = field_make(CS_DTYPE_I32, 3, 2, 1);
    static const int pair_of[3][2] = {{0, 3}, {-1, 2}, {5, 1}};
    for (size_t i = 0; i < 6; i++)
      field_set(&pairs, i / 2, i % 2, pair_of[i / 2][i % 2]);
    field *all[] = {&c[0].field, &c[1].field, &pairs};
    for (size_t i = 0; i < 3; i++)
      field_upload(&h, all[i]);
    const cs_tensor operands[] = {c[0].field.tensor, c[1].field.tensor, pairs.tensor};
    run_op(&h, CS_OP_KV_COPY_BLOCKS, operands, 3, NULL);
    for (size_t p = 0; p < 2; p++) {
      field *f = &c[p].field;
      field_download(&h, f);
      for (size_t block = 0; block < 6; block++) {
        const size_t source = block == 3 ? 0 : block == 1 ? 5 : block;
        assert_memory_equal(field_at(f, f->after, block, 0), field_at(f, f->data, source, 0),
                            f->columns * f->element_bytes);
      }
    }
    for (size_t i = 0; i < 3; i++)
      field_free(&h, all[i]);
  }
}

/* ---- both variants ---- */

static int open_variant(void **state) {
  harness_open(&h, "variant", *state);
  return 0;
}

static int close_variant(void **state) {
  (void)state;
  harness_close(&h);
  return 0;
}

#define VARIANT_TEST(function, variant)                                                            \
  { #function " (" variant ")", function, open_variant, close_variant, (void *)variant }
#define VARIANT_TESTS(variant)                                                                     \
  VARIANT_TEST(kv_write_fills_its_slots_and_no_others, variant),                                   \
      VARIANT_TEST(attention_agrees_on_ragged_batches, variant),                                   \
      VARIANT_TEST(attention_serves_window_cap_and_sinks, variant),                                \
      VARIANT_TEST(kv_moves_round_trip_between_blocks_layouts_and_dtypes, variant),                \
      VARIANT_TEST(a_flipped_wire_bit_changes_the_sum, variant),                                   \
      VARIANT_TEST(kv_copy_blocks_copies_only_its_pairs, variant)

int main(void) {
  cs_error error = CS_ERROR_INIT;
  if (harness_load(&h, &error) != CS_OK) {
    print_message("skipped: %s\n", error.message);
    return 77;
  }
  seed_random();
  filter_tests();
  static const struct CMUnitTest tests[] = {VARIANT_TESTS("cpu"), VARIANT_TESTS("gpu")};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  harness_unload(&h);
  return failed;
}
