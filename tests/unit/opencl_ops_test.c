/* Every op that does not touch the KV cache, on both kernel variants, against loops in float64. */
#include "opencl_harness.h"

static harness h;

static const uint32_t plain_dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16};

/* ---- elementwise ---- */

static double formula(uint32_t id, double a, double b) {
  if (id == CS_OP_ADD) return a + b;
  if (id == CS_OP_SILU_MUL) return a / (1 + exp(-a)) * b;
  return 0.5 * a * (1 + tanh(sqrt(2 / M_PI) * (a + 0.044715 * a * a * a))) * b;
}

static void check_binary(uint32_t id, size_t rows, size_t columns, bool in_place) {
  field a = field_random(CS_DTYPE_F32, rows, columns, 3);
  field b = field_random(CS_DTYPE_F32, rows, columns, 0);
  field out = field_make(CS_DTYPE_F32, rows, columns, 2);
  double *reference = malloc(rows * columns * sizeof *reference);
  for (size_t i = 0; i < rows * columns; i++) {
    field_set(&a, i / columns, i % columns, 4 * field_get(&a, i / columns, i % columns));
    reference[i] = formula(id, field_get(&a, i / columns, i % columns),
                           field_get(&b, i / columns, i % columns));
  }
  field_upload(&h, &a);
  field_upload(&h, &b);
  field_upload(&h, &out);
  field *to = in_place ? &a : &out;
  const cs_tensor operands[] = {to->tensor, a.tensor, b.tensor};
  run_op(&h, id, operands, 3, NULL);
  field_download(&h, to);
  char what[64];
  snprintf(what, sizeof what, "op %u of %zu x %zu", id, rows, columns);
  check_nmse(to, reference, CS_NMSE_LIMIT_F32, what);
  free(reference);
  field_free(&h, &a);
  field_free(&h, &b);
  field_free(&h, &out);
}

static void elementwise_ops_agree(void **state) {
  (void)state;
  static const size_t columns[] = {1, 15, 16, 17, 1023, 1024, 1025, 2100};
  static const uint32_t ids[] = {CS_OP_ADD, CS_OP_SILU_MUL, CS_OP_GELU_MUL};
  for (size_t i = 0; i < 3; i++)
    for (size_t c = 0; c < 8; c++)
      if (chosen(columns[c])) check_binary(ids[i], 1 + c % 3, columns[c], c % 2);
}

static uint32_t special_bits(size_t i) {
  static const uint32_t bits[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                  0x7f800001, 0xffc12345, 0x33000000, 0x33000001, 0x387fe000,
                                  0x387fffff, 0x38800000, 0x477fefff, 0x477ff000, 0x3f801000,
                                  0x3f803000, 0x3f808000, 0x3f818000, 0x7f7fffff, 0x00000001};
  return i < sizeof bits / 4 ? bits[i] : (uint32_t)random_word();
}

/* The element as half.h converts it. */
static uint32_t cast_bits(uint32_t to, uint32_t from, uint32_t bits) {
  const float value = from == CS_DTYPE_F32   ? cs_f32_from_bits(bits)
                      : from == CS_DTYPE_F16 ? cs_f32_from_f16((uint16_t)bits)
                                             : cs_f32_from_bf16((uint16_t)bits);
  return to == CS_DTYPE_F32   ? cs_f32_to_bits(value)
         : to == CS_DTYPE_F16 ? cs_f16_from_f32(value)
                              : cs_bf16_from_f32(value);
}

static void cast_rounds_as_half_h_does(void **state) {
  (void)state;
  for (size_t from = 0; from < 3; from++) {
    for (size_t to = 0; to < 3; to++) {
      field x = field_make(plain_dtypes[from], 2, 1100, 1);
      field out = field_make(plain_dtypes[to], 2, 1100, 3);
      for (size_t i = 0; i < 2200; i++) {
        const uint32_t bits = from ? special_bits(i) >> 16 : special_bits(i);
        memcpy(field_at(&x, x.data, i / 1100, i % 1100), &bits, x.element_bytes);
      }
      field_upload(&h, &x);
      field_upload(&h, &out);
      const cs_tensor operands[] = {out.tensor, x.tensor};
      run_op(&h, CS_OP_CAST, operands, 2, NULL);
      field_download(&h, &out);
      for (size_t i = 0; i < 2200; i++) {
        uint32_t bits = 0, got = 0;
        memcpy(&bits, field_at(&x, x.data, i / 1100, i % 1100), x.element_bytes);
        memcpy(&got, field_at(&out, out.after, i / 1100, i % 1100), out.element_bytes);
        const uint32_t want =
            from == to ? bits : cast_bits(plain_dtypes[to], plain_dtypes[from], bits);
        if (got != want) fail_msg("cast of %08x: %08x, not %08x", bits, got, want);
      }
      field_free(&h, &x);
      field_free(&h, &out);
    }
  }
}

static void copy_keeps_every_bit(void **state) {
  (void)state;
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_U8, CS_DTYPE_I32,
                                    CS_DTYPE_U64};
  for (size_t t = 0; t < 5; t++) {
    for (size_t columns = 1; columns < 3000; columns = columns * 3 + 2) {
      field x = field_make(dtypes[t], 3, columns, 1), out = field_make(dtypes[t], 3, columns, 2);
      for (size_t row = 0; row < 3; row++)
        for (size_t i = 0; i < columns * x.element_bytes; i++)
          field_at(&x, x.data, row, 0)[i] = (unsigned char)random_word();
      field_upload(&h, &x);
      field_upload(&h, &out);
      const cs_tensor operands[] = {out.tensor, x.tensor};
      run_op(&h, CS_OP_COPY, operands, 2, NULL);
      field_download(&h, &out);
      for (size_t row = 0; row < 3; row++)
        assert_memory_equal(field_at(&out, out.after, row, 0), field_at(&x, x.data, row, 0),
                            columns * x.element_bytes);
      field_free(&h, &x);
      field_free(&h, &out);
    }
  }
}

/* ---- rows ---- */

static void check_norm(size_t rows, size_t columns, bool add, int sum, uint32_t kind) {
  field x = field_random(CS_DTYPE_F32, rows, columns, 1);
  field other = field_random(CS_DTYPE_F32, rows, columns, 0);
  field weight = field_random(CS_DTYPE_F32, 1, columns, 0);
  field out = field_make(CS_DTYPE_F32, rows, columns, 5);
  field total = field_make(CS_DTYPE_F32, rows, columns, 2);
  field_vector(&weight);
  const cs_rms_norm_params params = {.struct_size = sizeof params, .kind = kind, .epsilon = 0.01f};
  double *reference = malloc(2 * rows * columns * sizeof *reference);
  double *sums = reference + rows * columns;
  for (size_t r = 0; r < rows; r++) {
    double mean = 0, squares = 0;
    for (size_t i = 0; i < columns; i++) {
      field_set(&x, r, i, 0.1 * field_get(&x, r, i)); /* small, so that epsilon shows */
      sums[r * columns + i] = field_get(&x, r, i) + (add ? field_get(&other, r, i) : 0);
      mean += sums[r * columns + i] / (double)columns;
    }
    if (kind == CS_NORM_RMS) mean = 0;
    for (size_t i = 0; i < columns; i++)
      squares += pow(sums[r * columns + i] - mean, 2) / (double)columns;
    for (size_t i = 0; i < columns; i++)
      reference[r * columns + i] = (sums[r * columns + i] - mean) /
                                   sqrt(squares + (double)params.epsilon) *
                                   field_get(&weight, 0, i);
  }
  field *all[] = {&x, &other, &weight, &out, &total};
  for (size_t i = 0; i < 5; i++)
    field_upload(&h, all[i]);
  field *sum_field = sum == 2 ? &x : &total;
  const cs_tensor operands[] = {out.tensor, x.tensor, weight.tensor, add ? other.tensor : no_tensor,
                                sum ? sum_field->tensor : no_tensor};
  run_op(&h, CS_OP_RMS_NORM, operands, 5, &params);
  field_download(&h, &out);
  check_nmse(&out, reference, CS_NMSE_LIMIT_F32, "rms_norm");
  if (sum) {
    field_download(&h, sum_field);
    check_nmse(sum_field, sums, CS_NMSE_LIMIT_F32, "rms_norm's sum");
  }
  free(reference);
  for (size_t i = 0; i < 5; i++)
    field_free(&h, all[i]);
}

static void norms_agree(void **state) {
  (void)state;
  static const size_t columns[] = {1, 7, 16, 33, 256, 300, 2048};
  for (size_t c = 0; c < 7; c++)
    for (int sum = 0; sum < 3; sum++)
      if (chosen(columns[c])) check_norm(1 + c % 4, columns[c], sum > 0 || c % 2, sum, c % 3 == 2);
}

/* The argmax by the rule of the op table. */
static int32_t reference_argmax(const field *x, size_t row) {
  size_t best = 0;
  for (size_t i = 1; i < x->columns; i++) {
    const double a = field_get(x, row, i), b = field_get(x, row, best);
    if (!isnan(a) && (isnan(b) || a > b)) best = i;
  }
  return (int32_t)best;
}

static void argmax_takes_the_lowest_index_and_skips_nan(void **state) {
  (void)state;
  for (size_t columns = 1; columns < 5000; columns = columns * 2 + 1) {
    if (!chosen(columns)) continue;
    field x = field_random(CS_DTYPE_F32, 6, columns, 1);
    field out = field_make(CS_DTYPE_I32, 1, 6, 0);
    field_vector(&out);
    for (size_t i = 0; i < columns; i++) {
      field_set(&x, 1, i, (double)(random_word() % 3) - 1);               /* ties */
      field_set(&x, 2, i, random_word() % 4 ? NAN : field_get(&x, 2, i)); /* some NaN */
      field_set(&x, 3, i, NAN);                                           /* nothing else */
      field_set(&x, 4, i, random_word() % 2 ? -0.0 : 0.0);                /* equal zeros */
      field_set(&x, 5, i, i + 1 == columns ? -INFINITY : NAN);
    }
    field_upload(&h, &x);
    field_upload(&h, &out);
    const cs_tensor operands[] = {out.tensor, x.tensor};
    run_op(&h, CS_OP_ARGMAX, operands, 2, NULL);
    field_download(&h, &out);
    for (size_t row = 0; row < 6; row++)
      assert_int_equal((int32_t)field_result(&out, 0, row), reference_argmax(&x, row));
    field_free(&h, &x);
    field_free(&h, &out);
  }
}

static void top_k_is_sorted_with_ties_by_index(void **state) {
  (void)state;
  const size_t columns = 333, k = 20;
  field x = field_random(CS_DTYPE_F32, 2, columns, 1);
  field values = field_make(CS_DTYPE_F32, 2, k, 1), ids = field_make(CS_DTYPE_I32, 2, k, 2);
  for (size_t i = 0; i < columns; i++)
    field_set(&x, 1, i, (double)(random_word() % 9));
  field_upload(&h, &x);
  field_upload(&h, &values);
  field_upload(&h, &ids);
  const cs_tensor operands[] = {values.tensor, ids.tensor, x.tensor};
  run_op(&h, CS_OP_TOP_K, operands, 3, NULL);
  field_download(&h, &values);
  field_download(&h, &ids);
  for (size_t row = 0; row < 2; row++) {
    for (size_t j = 0; j < k; j++) {
      const int32_t best = reference_argmax(&x, row);
      assert_int_equal((int32_t)field_result(&ids, row, j), best);
      assert_true(field_result(&values, row, j) == field_get(&x, row, (size_t)best));
      field_set(&x, row, (size_t)best, -INFINITY);
    }
  }
  field_free(&h, &x);
  field_free(&h, &values);
  field_free(&h, &ids);
}

/* ---- rope ---- */

static void check_rope(uint32_t mode, size_t head_dim, uint32_t n_rot, bool in_place) {
  const size_t n = 5, heads = 3, columns = heads * head_dim;
  static const int positions_of[] = {0, 1, 17, 4095, 131071};
  field x = field_random(CS_DTYPE_F32, n, columns, 2),
        out = field_make(CS_DTYPE_F32, n, columns, 3);
  field positions = field_make(CS_DTYPE_I32, 1, n, 0);
  field inv_freq = field_make(CS_DTYPE_F32, 1, n_rot ? n_rot / 2 : 1, 0);
  const cs_rope_params params = {
      .struct_size = sizeof params, .mode = mode, .n_rot = n_rot, .magnitude = 1.25f};
  for (size_t i = 0; i < n; i++)
    field_set(&positions, 0, i, positions_of[i]);
  for (size_t i = 0; i < n_rot / 2; i++)
    field_set(&inv_freq, 0, i, pow(10000, -2.0 * (double)i / n_rot));
  double *reference = malloc(n * columns * sizeof *reference);
  for (size_t r = 0; r < n * columns; r++)
    reference[r] = field_get(&x, r / columns, r % columns);
  for (size_t r = 0; r < n; r++)
    for (size_t head = 0; head < heads; head++)
      for (size_t i = 0; i < n_rot / 2; i++) {
        const double angle = positions_of[r] * field_get(&inv_freq, 0, i);
        const size_t a = head * head_dim + (mode == CS_ROPE_HALF_SPLIT ? i : 2 * i);
        const size_t b = mode == CS_ROPE_HALF_SPLIT ? a + n_rot / 2 : a + 1;
        const double va = field_get(&x, r, a), vb = field_get(&x, r, b);
        reference[r * columns + a] = 1.25 * (va * cos(angle) - vb * sin(angle));
        reference[r * columns + b] = 1.25 * (va * sin(angle) + vb * cos(angle));
      }
  field *all[] = {&x, &out, &positions, &inv_freq};
  field_shape3(&x, heads);
  field_shape3(&out, heads);
  field_vector(&positions);
  field_vector(&inv_freq);
  for (size_t i = 0; i < 4; i++)
    field_upload(&h, all[i]);
  field *to = in_place ? &x : &out;
  const cs_tensor operands[] = {to->tensor, x.tensor, positions.tensor, inv_freq.tensor};
  run_op(&h, CS_OP_ROPE, operands, 4, &params);
  field_download(&h, to);
  check_nmse(to, reference, 1e-12, "rope"); /* a plain float product would be near 1e-5 */
  free(reference);
  for (size_t i = 0; i < 4; i++)
    field_free(&h, all[i]);
}

static void rope_keeps_its_digits_at_long_positions(void **state) {
  (void)state;
  for (uint32_t mode = 0; mode < 2; mode++) {
    check_rope(mode, 64, 64, false);
    check_rope(mode, 9, 8, true);
    check_rope(mode, 130, 130, true);
    check_rope(mode, 80, 32, false);
    check_rope(mode, 8, 2, false);
  }
}

/* ---- weights ---- */

typedef struct weights {
  uint32_t dtype;
  size_t matrices, rows, columns, bytes;
  unsigned char *source;
  double *values;
  cs_plugin_memory *packed;
  cs_tensor tensor;
} weights;

static void fill_quantized(weights *w) {
  const size_t block_bytes = w->dtype == CS_DTYPE_Q8_0 ? 34 : 18;
  const size_t n_blocks = w->matrices * w->rows * w->columns / 32;
  w->bytes = n_blocks * block_bytes;
  w->source = malloc(w->bytes);
  for (size_t b = 0; b < n_blocks; b++) {
    unsigned char *block = w->source + b * block_bytes;
    const uint16_t scale = cs_f16_from_f32(random_float() / 16);
    memcpy(block, &scale, 2);
    for (size_t i = 2; i < block_bytes; i++)
      block[i] = (unsigned char)random_word();
    for (size_t i = 0; i < 32; i++) {
      const int nibble = i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;
      const int q = w->dtype == CS_DTYPE_Q8_0 ? (int)(int8_t)block[2 + i] : nibble - 8;
      w->values[b * 32 + i] = (double)cs_f32_from_f16(scale) * q;
    }
  }
}

static weights weights_make(uint32_t dtype, size_t matrices, size_t rows, size_t columns,
                            uint32_t usage) {
  weights w = {.dtype = dtype, .matrices = matrices, .rows = rows, .columns = columns};
  w.values = malloc(matrices * rows * columns * sizeof *w.values);
  if (dtype >= CS_DTYPE_Q8_0) {
    fill_quantized(&w);
  } else {
    field f = field_random(dtype, matrices * rows, columns, 0);
    w.bytes = f.bytes - 2 * GUARD_BYTES;
    w.source = malloc(w.bytes);
    memcpy(w.source, f.data + GUARD_BYTES, w.bytes);
    for (size_t i = 0; i < matrices * rows * columns; i++)
      w.values[i] = field_get(&f, i / columns, i % columns);
    field_free(&h, &f);
  }
  const cs_weight_part part = {
      .struct_size = sizeof part, .dtype = dtype, .data = w.source, .bytes = w.bytes};
  const uint32_t rank = matrices > 1 ? 3 : 2;
  cs_weight weight = {.struct_size = sizeof weight,
                      .dtype = dtype,
                      .usage = usage,
                      .rank = rank,
                      .n_parts = 1,
                      .part_stride = sizeof part,
                      .parts = &part};
  const uint64_t dims[] = {matrices, rows, columns};
  memcpy(weight.dims, dims + (3 - rank), rank * sizeof dims[0]);
  cs_packed_info info = {.struct_size = sizeof info};
  cs_error error = CS_ERROR_INIT;
  require_ok(h.capability_table->weights_pack(h.device, &weight, &w.packed, &info, &error), &error);
  assert_true(info.bytes >= w.bytes && info.layout_id != 0);
  w.tensor = (cs_tensor){.struct_size = sizeof(cs_tensor),
                         .dtype = dtype,
                         .layout = CS_LAYOUT_PACKED,
                         .rank = rank,
                         .memory = w.packed};
  memcpy(w.tensor.dims, weight.dims, sizeof weight.dims);
  return w;
}

static void weights_free(weights *w) {
  h.memory_table->memory_free(h.device, w->packed);
  free(w->source);
  free(w->values);
}

static const uint32_t weight_dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16, CS_DTYPE_Q8_0,
                                         CS_DTYPE_Q4_0};

static void check_gather(const cs_tensor *table, const double *values, size_t table_rows,
                         size_t columns) {
  field ids = field_make(CS_DTYPE_I32, 1, 6, 0), out = field_make(CS_DTYPE_F32, 6, columns, 1);
  const int chosen[] = {
      0, -1, (int)table_rows - 1, (int)(random_word() % table_rows), 33 % (int)table_rows, 0};
  const cs_gather_rows_params params = {.struct_size = sizeof params, .scale = 1.5f};
  double *reference = calloc(6 * columns, sizeof *reference);
  for (size_t r = 0; r < 6; r++) {
    field_set(&ids, 0, r, chosen[r]);
    for (size_t i = 0; i < columns && chosen[r] >= 0; i++)
      reference[r * columns + i] = 1.5 * values[(size_t)chosen[r] * columns + i];
  }
  field_vector(&ids);
  field_upload(&h, &ids);
  field_upload(&h, &out);
  const cs_tensor operands[] = {out.tensor, *table, ids.tensor};
  run_op(&h, CS_OP_GATHER_ROWS, operands, 3, &params);
  field_download(&h, &out);
  check_nmse(&out, reference, CS_NMSE_LIMIT_F32, "gather_rows");
  free(reference);
  field_free(&h, &ids);
  field_free(&h, &out);
}

static void gather_reads_packed_and_plain_tables(void **state) {
  (void)state;
  for (size_t t = 0; t < 5; t++) {
    for (uint32_t usage = 2; usage < 4; usage++) {
      const size_t columns = t >= 3 ? 96 : 77;
      weights w = weights_make(weight_dtypes[t], 1, 50, columns, usage);
      check_gather(&w.tensor, w.values, 50, columns);
      weights_free(&w);
    }
  }
  for (size_t t = 0; t < 3; t++) {
    field table = field_random(plain_dtypes[t], 9, 1030, 3);
    double *values = malloc(9 * 1030 * sizeof *values);
    for (size_t i = 0; i < 9 * 1030; i++)
      values[i] = field_get(&table, i / 1030, i % 1030);
    field_upload(&h, &table);
    check_gather(&table.tensor, values, 9, 1030);
    free(values);
    field_free(&h, &table);
  }
}

static double dot(const field *x, size_t row, const double *w, size_t columns) {
  double sum = 0;
  for (size_t i = 0; i < columns; i++)
    sum += field_get(x, row, i) * w[i];
  return sum;
}

static void check_matmul(uint32_t dtype, size_t n, size_t n_out, size_t n_in, bool extras) {
  weights w = weights_make(dtype, 1, n_out, n_in, CS_USAGE_MATMUL);
  field x = field_random(CS_DTYPE_F32, n, n_in, 1), out = field_make(CS_DTYPE_F32, n, n_out, 3);
  field bias = field_random(CS_DTYPE_F32, 1, n_out, 0);
  field residual = field_random(CS_DTYPE_F32, n, n_out, 2);
  const cs_matmul_params params = {.struct_size = sizeof params, .soft_cap = extras ? 3.0f : 0.0f};
  double *reference = malloc(n * n_out * sizeof *reference);
  for (size_t i = 0; i < n * n_out; i++) {
    double value = dot(&x, i / n_out, w.values + i % n_out * n_in, n_in);
    if (extras) {
      value = 3 * tanh((value + field_get(&bias, 0, i % n_out)) / 3);
      value += field_get(&residual, i / n_out, i % n_out);
    }
    reference[i] = value;
  }
  field_vector(&bias);
  field *all[] = {&x, &out, &bias, &residual};
  for (size_t i = 0; i < 4; i++)
    field_upload(&h, all[i]);
  field *to = extras && n % 2 ? &residual : &out; /* in place of the residual */
  const cs_tensor operands[] = {to->tensor, x.tensor, w.tensor, extras ? bias.tensor : no_tensor,
                                extras ? residual.tensor : no_tensor};
  run_op(&h, CS_OP_MATMUL, operands, 5, &params);
  field_download(&h, to);
  check_nmse(to, reference, CS_NMSE_LIMIT_F32, "matmul");
  free(reference);
  weights_free(&w);
  for (size_t i = 0; i < 4; i++)
    field_free(&h, all[i]);
}

static void matmul_agrees_on_edge_shapes(void **state) {
  (void)state;
  static const size_t rows[] = {1, 2, 4, 5, 8, 9, 63, 64, 65, 130};
  static const size_t outs[] = {1, 31, 32, 33, 100};
  static const size_t ins[] = {1, 3, 32, 130, 257};
  static const size_t quantized_ins[] = {32, 64, 128, 160, 288};
  for (size_t t = 0; t < 5; t++)
    for (size_t r = 0; r < 10; r++) {
      const size_t i = (r + t) % 5, o = (r * 3 + random_word()) % 5;
      if (chosen(rows[r] * 100 * 64))
        check_matmul(weight_dtypes[t], rows[r], outs[o], t >= 3 ? quantized_ins[i] : ins[i], r % 2);
    }
}

/* ---- mixture of experts ---- */

static void moe_matmul_uses_each_rows_expert(void **state) {
  (void)state;
  for (size_t t = 0; t < 5; t++) {
    const size_t n = 4, k = 2, n_out = 45, n_in = 96;
    const bool shared = t % 2;
    weights w = weights_make(weight_dtypes[t], 3, n_out, n_in, CS_USAGE_MATMUL);
    field x = field_random(CS_DTYPE_F32, shared ? n : n * k, n_in, 1);
    field out = field_make(CS_DTYPE_F32, n * k, n_out, 1), ids = field_make(CS_DTYPE_I32, n, k, 1);
    double *reference = malloc(n * k * n_out * sizeof *reference);
    for (size_t i = 0; i < n * k; i++) {
      const size_t expert = random_word() % 3;
      field_set(&ids, i / k, i % k, (double)expert);
      for (size_t o = 0; o < n_out; o++)
        reference[i * n_out + o] =
            dot(&x, shared ? i / k : i, w.values + (expert * n_out + o) * n_in, n_in);
    }
    field_upload(&h, &x);
    field_upload(&h, &out);
    field_upload(&h, &ids);
    const cs_tensor operands[] = {out.tensor, x.tensor, w.tensor, ids.tensor};
    run_op(&h, CS_OP_MOE_MATMUL, operands, 4, NULL);
    field_download(&h, &out);
    check_nmse(&out, reference, CS_NMSE_LIMIT_F32, "moe_matmul");
    free(reference);
    weights_free(&w);
    field_free(&h, &x);
    field_free(&h, &out);
    field_free(&h, &ids);
  }
}

static void check_route(uint32_t scoring, bool biased, uint32_t normalize) {
  const size_t n = 5, experts = 13, k = 4;
  field logits = field_random(CS_DTYPE_F32, n, experts, 1);
  field bias = field_random(CS_DTYPE_F32, 1, experts, 0);
  field ids = field_make(CS_DTYPE_I32, n, k, 1), out = field_make(CS_DTYPE_F32, n, k, 2);
  const cs_moe_route_params params = {
      .struct_size = sizeof params, .scoring = scoring, .normalize = normalize, .scale = 2.5f};
  field_vector(&bias);
  field *all[] = {&logits, &bias, &ids, &out};
  for (size_t i = 0; i < 4; i++)
    field_upload(&h, all[i]);
  const cs_tensor operands[] = {ids.tensor, out.tensor, logits.tensor,
                                biased ? bias.tensor : no_tensor};
  run_op(&h, CS_OP_MOE_ROUTE, operands, 4, &params);
  field_download(&h, &ids);
  field_download(&h, &out);
  for (size_t r = 0; r < n; r++) {
    double p[13], total = 0, chosen = 0;
    bool taken[13] = {false};
    for (size_t i = 0; i < experts; i++) {
      const double e = exp(field_get(&logits, r, i));
      p[i] = scoring == CS_MOE_SIGMOID ? e / (1 + e) : e;
      total += p[i];
    }
    for (size_t i = 0; i < experts && scoring == CS_MOE_SOFTMAX; i++)
      p[i] /= total;
    for (size_t j = 0; j < k; j++) {
      size_t best = experts;
      for (size_t i = 0; i < experts; i++) {
        const double score = p[i] + (biased ? field_get(&bias, 0, i) : 0);
        const double top = best < experts ? p[best] + (biased ? field_get(&bias, 0, best) : 0) : 0;
        if (!taken[i] && (best == experts || score > top)) best = i;
      }
      taken[best] = true;
      assert_int_equal((int)field_result(&ids, r, j), (int)best);
      chosen += p[best];
    }
    for (size_t j = 0; j < k; j++) {
      const double weight = p[(size_t)field_result(&ids, r, j)] * 2.5 / (normalize ? chosen : 1);
      assert_true(fabs(field_result(&out, r, j) - weight) < 1e-5);
    }
  }
  for (size_t i = 0; i < 4; i++)
    field_free(&h, all[i]);
}

static void moe_route_picks_and_weighs(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 8; i++)
    check_route(i & 1, i & 2, i >> 2);
}

static void moe_combine_sums_weighted_rows(void **state) {
  (void)state;
  const size_t n = 3, k = 2, columns = 1030;
  for (int with = 0; with < 2; with++) {
    field x = field_random(CS_DTYPE_F32, n * k, columns, 1);
    field factors = field_random(CS_DTYPE_F32, n, k, 1);
    field residual = field_random(CS_DTYPE_F32, n, columns, 2);
    field out = field_make(CS_DTYPE_F32, n, columns, 3);
    double *reference = malloc(n * columns * sizeof *reference);
    for (size_t i = 0; i < n * columns; i++) {
      const size_t r = i / columns, c = i % columns;
      reference[i] = with ? field_get(&residual, r, c) : 0;
      for (size_t j = 0; j < k; j++)
        reference[i] += field_get(&factors, r, j) * field_get(&x, r * k + j, c);
    }
    field *all[] = {&x, &factors, &residual, &out};
    for (size_t i = 0; i < 4; i++)
      field_upload(&h, all[i]);
    const cs_tensor operands[] = {out.tensor, x.tensor, factors.tensor,
                                  with ? residual.tensor : no_tensor};
    run_op(&h, CS_OP_MOE_COMBINE, operands, 4, NULL);
    field_download(&h, &out);
    check_nmse(&out, reference, CS_NMSE_LIMIT_F32, "moe_combine");
    free(reference);
    for (size_t i = 0; i < 4; i++)
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
  VARIANT_TEST(elementwise_ops_agree, variant), VARIANT_TEST(cast_rounds_as_half_h_does, variant), \
      VARIANT_TEST(copy_keeps_every_bit, variant), VARIANT_TEST(norms_agree, variant),             \
      VARIANT_TEST(argmax_takes_the_lowest_index_and_skips_nan, variant),                          \
      VARIANT_TEST(top_k_is_sorted_with_ties_by_index, variant),                                   \
      VARIANT_TEST(rope_keeps_its_digits_at_long_positions, variant),                              \
      VARIANT_TEST(gather_reads_packed_and_plain_tables, variant),                                 \
      VARIANT_TEST(matmul_agrees_on_edge_shapes, variant),                                         \
      VARIANT_TEST(moe_matmul_uses_each_rows_expert, variant),                                     \
      VARIANT_TEST(moe_route_picks_and_weighs, variant),                                           \
      VARIANT_TEST(moe_combine_sums_weighted_rows, variant)

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
