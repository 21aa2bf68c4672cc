/* Matmuls of the CUDA plugin that the conformance kit is too small for, or cannot choose: large
 * tiles, rows grouped by expert, and cuBLASLt (tests/cuda_driver/libraries), which the plugin must
 * do without when it fails at whatever call. References are sums in float64. */
#include "cuda_harness.h"

typedef struct product {
  uint32_t dtype;
  uint32_t n, n_out, n_in;
  uint32_t n_experts, k; /* 0: matmul */
  bool x_per_slot, bias, residual;
  uint32_t crowd; /* of 8 slots, how many go to expert 1 */
} product;

typedef struct placed {
  cs_plugin_memory *x, *out, *packed, *bias, *residual, *ids, *workspace;
  float *x_values, *residual_values, *bias_values, *weights;
  int32_t *id_values;
  uint64_t x_rows, out_rows;
  cs_tensor operands[5];
  cs_matmul_params params;
  cs_op op;
} placed;

/* A number in -1 to 1 that looks random: regular waves would cancel each other in a sum. */
static float noise(uint64_t i, uint64_t seed) {
  uint64_t z = (i + seed * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 29) * UINT64_C(0x94d049bb133111eb);
  return (float)(z >> 40) / (float)(1u << 23) - 1.0f;
}

static cs_plugin_memory *upload(const void *from, uint64_t bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(bytes);
  assert_int_equal(f.streams->stream_upload(f.stream, memory, 0, from, bytes, &error), CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  return memory;
}

static float *values(uint64_t n, uint64_t seed) {
  float *to = malloc(n * sizeof *to);
  for (uint64_t i = 0; to && i < n; i++)
    to[i] = noise(i, seed);
  return to;
}

/* Element i of a weight, in `dtype` at `bytes`; returns what it came to. */
static float put(uint32_t dtype, unsigned char *bytes, uint64_t i) {
  const float value = noise(i, 1);
  uint16_t half;
  switch (dtype) {
  case CS_DTYPE_F32:
    memcpy(bytes + 4 * i, &value, 4);
    return value;
  case CS_DTYPE_F16:
    half = cs_f16_from_f32(value);
    memcpy(bytes + 2 * i, &half, 2);
    return cs_f32_from_f16(half);
  case CS_DTYPE_BF16:
    half = cs_bf16_from_f32(value);
    memcpy(bytes + 2 * i, &half, 2);
    return cs_f32_from_bf16(half);
  default: { /* Q8_0 */
    unsigned char *block = bytes + i / 32 * 34;
    const float scale = cs_f32_from_f16(cs_f16_from_f32(0.004f + 0.0001f * (float)(i / 32 % 9)));
    const int8_t q = (int8_t)(value * 127.0f);
    half = cs_f16_from_f32(scale);
    memcpy(block, &half, 2);
    memcpy(block + 2 + i % 32, &q, 1);
    return scale * (float)q;
  }
  }
}

static uint64_t weight_bytes(uint32_t dtype, uint64_t n) {
  return dtype == CS_DTYPE_F32 ? 4 * n : dtype == CS_DTYPE_Q8_0 ? n / 32 * 34 : 2 * n;
}

static void pack(const product *c, placed *p) {
  cs_error error = CS_ERROR_INIT;
  const uint64_t n = (uint64_t)(c->n_experts ? c->n_experts : 1) * c->n_out * c->n_in;
  unsigned char *bytes = malloc(weight_bytes(c->dtype, n));
  p->weights = malloc(n * sizeof *p->weights);
  assert_true(bytes && p->weights);
  for (uint64_t i = 0; i < n; i++)
    p->weights[i] = put(c->dtype, bytes, i);
  const cs_weight_part part = {.struct_size = sizeof part,
                               .dtype = c->dtype,
                               .data = bytes,
                               .bytes = weight_bytes(c->dtype, n)};
  cs_weight weight = {.struct_size = sizeof weight,
                      .dtype = c->dtype,
                      .usage = CS_USAGE_MATMUL,
                      .rank = 2,
                      .n_parts = 1,
                      .part_stride = sizeof part,
                      .dims = {c->n_out, c->n_in},
                      .parts = &part};
  if (c->n_experts) {
    weight.rank = 3;
    weight.dims[0] = c->n_experts, weight.dims[1] = c->n_out, weight.dims[2] = c->n_in;
  }
  assert_int_equal(f.capability->weights_pack(f.device, &weight, &p->packed, NULL, &error), CS_OK);
  p->operands[2] = (cs_tensor){.struct_size = sizeof(cs_tensor),
                               .dtype = c->dtype,
                               .layout = CS_LAYOUT_PACKED,
                               .rank = weight.rank,
                               .memory = p->packed};
  memcpy(p->operands[2].dims, weight.dims, sizeof weight.dims);
  free(bytes);
}

static void place_ids(const product *c, placed *p) {
  const uint64_t n = (uint64_t)c->n * c->k;
  p->id_values = malloc(n * sizeof *p->id_values);
  for (uint64_t i = 0; i < n; i++)
    p->id_values[i] = i % 8 < c->crowd ? 1 : (int32_t)((11 * i + i / 3) % (c->n_experts + 2)) - 1;
  p->ids = upload(p->id_values, n * sizeof *p->id_values);
  p->operands[3] = tensor(p->ids, 0, c->n, c->k);
  p->operands[3].dtype = CS_DTYPE_I32;
}

static void place(const product *c, placed *p) {
  cs_error error = CS_ERROR_INIT;
  *p = (placed){.params = {.struct_size = sizeof p->params}};
  p->out_rows = (uint64_t)c->n * (c->n_experts ? c->k : 1);
  p->x_rows = c->x_per_slot ? p->out_rows : c->n;
  for (int i = 3; i < 5; i++)
    p->operands[i] = (cs_tensor){.struct_size = sizeof(cs_tensor), .rank = 1};
  p->x_values = values(p->x_rows * c->n_in, 2);
  p->x = upload(p->x_values, p->x_rows * c->n_in * 4);
  p->out = allocate(p->out_rows * c->n_out * 4);
  p->operands[0] = tensor(p->out, 0, p->out_rows, c->n_out);
  p->operands[1] = tensor(p->x, 0, p->x_rows, c->n_in);
  pack(c, p);
  if (c->n_experts) place_ids(c, p);
  if (c->bias) {
    p->bias_values = values(c->n_out, 3);
    p->bias = upload(p->bias_values, c->n_out * 4);
    p->operands[3] = tensor(p->bias, 0, 1, c->n_out);
  }
  if (c->residual) {
    p->residual_values = values(p->out_rows * c->n_out, 4);
    p->residual = upload(p->residual_values, p->out_rows * c->n_out * 4);
    p->operands[4] = tensor(p->residual, 0, p->out_rows, c->n_out);
  }
  p->op = (cs_op){.struct_size = sizeof p->op,
                  .id = c->n_experts ? CS_OP_MOE_MATMUL : CS_OP_MATMUL,
                  .n_operands = c->n_experts ? 4 : 5,
                  .operand_stride = sizeof(cs_tensor),
                  .operands = p->operands,
                  .params = c->n_experts ? NULL : &p->params};
  cs_op_answer answer = {.struct_size = sizeof answer};
  assert_int_equal(f.capability->op_query(f.device, &p->op, &answer, &error), CS_OK);
  assert_true(answer.support != CS_SUPPORT_NO);
  if (answer.workspace_bytes) p->workspace = allocate(answer.workspace_bytes);
}

static void give_back(placed *p) {
  cs_plugin_memory *const all[] = {p->x,        p->out, p->packed,   p->bias,
                                   p->residual, p->ids, p->workspace};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    f.memory->memory_free(f.device, all[i]);
  free(p->x_values);
  free(p->residual_values);
  free(p->bias_values);
  free(p->weights);
  free(p->id_values);
}

/* The error of what is in out against the float64 sums. */
static double nmse(const product *c, const placed *p) {
  cs_error error = CS_ERROR_INIT;
  const uint64_t bytes = p->out_rows * c->n_out * 4;
  float *out = malloc(bytes);
  assert_int_equal(f.streams->stream_download(f.stream, out, p->out, 0, bytes, &error), CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  double difference = 0, norm = 0;
  for (uint64_t i = 0; i < p->out_rows; i++) {
    const int64_t expert = c->n_experts ? p->id_values[i] : 0;
    const bool known = expert >= 0 && expert < (int64_t)(c->n_experts ? c->n_experts : 1);
    const float *x = p->x_values + (c->n_experts && !c->x_per_slot ? i / c->k : i) * c->n_in;
    for (uint64_t j = 0; j < c->n_out; j++) {
      const float *w = p->weights + ((uint64_t)(known ? expert : 0) * c->n_out + j) * c->n_in;
      double sum = p->bias_values ? (double)p->bias_values[j] : 0;
      if (p->residual_values) sum += (double)p->residual_values[i * c->n_out + j];
      for (uint64_t k = 0; known && k < c->n_in; k++)
        sum += (double)x[k] * (double)w[k];
      if (!known) assert_true(out[i * c->n_out + j] == 0.0f);
      difference += pow((double)out[i * c->n_out + j] - sum, 2);
      norm += sum * sum;
    }
  }
  free(out);
  return difference / norm;
}

static void check_within(const product *c, const placed *p, double least, double limit) {
  const double found = nmse(c, p);
  if (!(found >= least && found < limit))
    fail_msg("dtype %u, (%u, %u, %u), %u experts: NMSE %g", c->dtype, c->n, c->n_out, c->n_in,
             c->n_experts, found);
}

static void check(const product *c, const placed *p) {
  check_within(c, p, 0, CS_NMSE_LIMIT_HALF);
}

static void enqueue(const placed *p) {
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(f.streams->stream_fill(f.stream, p->out, 0, 4, 0xff, &error), CS_OK);
  assert_int_equal(f.eager->ops_enqueue(f.stream, &p->op, 1, sizeof p->op, p->workspace, &error),
                   CS_OK);
  assert_int_equal(finish(&error), CS_OK);
}

static void run(const product *c) {
  placed p;
  place(c, &p);
  enqueue(&p);
  check(c, &p);
  give_back(&p);
}

static void reopen(const char *cublaslt) {
  const cs_option option = {"cublaslt", cublaslt};
  close_device();
  open_device(&option);
}

/* ---- tiles ---- */

static void large_tiles_are_right(void **state) {
  (void)state;
  static const product cases[] = {
      {.dtype = CS_DTYPE_Q8_0, .n = 131, .n_out = 260, .n_in = 96},
      {.dtype = CS_DTYPE_BF16, .n = 140, .n_out = 259, .n_in = 100, .bias = true},
      {.dtype = CS_DTYPE_F16, .n = 129, .n_out = 257, .n_in = 8, .residual = true},
      {.dtype = CS_DTYPE_F16, .n = 150, .n_out = 300, .n_in = 33},
      {.dtype = CS_DTYPE_F32, .n = 70, .n_out = 65, .n_in = 50, .residual = true, .bias = true}};
  reopen("off");
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    run(&cases[i]);
  assert_int_equal(f.blas_matmuls(), 0);
}

/* ---- experts ---- */

static void rows_are_grouped_by_expert(void **state) {
  (void)state;
  static const product cases[] = {
      {.dtype = CS_DTYPE_Q8_0, .n = 150, .n_out = 70, .n_in = 64, .n_experts = 7, .k = 2},
      {.dtype = CS_DTYPE_BF16,
       .n = 40,
       .n_out = 33,
       .n_in = 40,
       .n_experts = 5,
       .k = 4,
       .x_per_slot = true},
      /* One expert has most rows, and the tiles are large. */
      {.dtype = CS_DTYPE_BF16,
       .n = 600,
       .n_out = 520,
       .n_in = 32,
       .n_experts = 3,
       .k = 1,
       .crowd = 7},
      {.dtype = CS_DTYPE_F32, .n = 90, .n_out = 20, .n_in = 36, .n_experts = 4, .k = 3, .crowd = 6},
      {.dtype = CS_DTYPE_F16, .n = 300, .n_out = 9, .n_in = 16, .n_experts = 512, .k = 2}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    run(&cases[i]);
}

/* ---- cuBLASLt ---- */

static const product halves[] = {
    {.dtype = CS_DTYPE_BF16, .n = 40, .n_out = 50, .n_in = 64},
    {.dtype = CS_DTYPE_F16, .n = 33, .n_out = 17, .n_in = 36, .bias = true},
    {.dtype = CS_DTYPE_BF16, .n = 32, .n_out = 64, .n_in = 100, .residual = true},
    {.dtype = CS_DTYPE_F16, .n = 64, .n_out = 8, .n_in = 8, .bias = true, .residual = true}};
#define N_HALVES (sizeof halves / sizeof halves[0])

static void many_rows_of_halves_go_to_cublaslt(void **state) {
  (void)state;
  static const product few = {.dtype = CS_DTYPE_BF16, .n = 31, .n_out = 50, .n_in = 64};
  static const product quants = {.dtype = CS_DTYPE_Q8_0, .n = 40, .n_out = 50, .n_in = 64};
  for (size_t i = 0; i < N_HALVES; i++)
    run(&halves[i]);
  assert_int_equal(f.blas_matmuls(), N_HALVES);
  run(&few);
  run(&quants);
  assert_int_equal(f.blas_matmuls(), 0);
  reopen("off");
  run(&halves[0]);
  assert_int_equal(f.blas_matmuls(), 0);
  assert_null(strstr(f.logged, "cuBLASLt"));
}

static void a_soft_cap_stays_with_the_own_kernels(void **state) {
  (void)state;
  placed p;
  place(&halves[0], &p);
  p.params.soft_cap = 30;
  enqueue(&p);
  assert_int_equal(f.blas_matmuls(), 0);
  give_back(&p);
}

static void a_choice_is_made_once_a_shape(void **state) {
  (void)state;
  placed p;
  place(&halves[0], &p);
  for (int i = 0; i < 3; i++)
    enqueue(&p);
  assert_int_equal(f.blas_questions(), 1);
  assert_int_equal(f.blas_matmuls(), 3);
  give_back(&p);
}

/* An algorithm is good for the rows that it was chosen for. */
static void another_number_of_rows_is_another_choice(void **state) {
  (void)state;
  for (uint32_t more = 0; more < 3; more++) {
    product c = halves[0];
    c.n += more;
    run(&c);
  }
  assert_int_equal(f.blas_questions(), 3);
  assert_int_equal(f.blas_matmuls(), 3);
}

static void a_recorded_product_repeats_with_new_bytes(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_program *program = NULL;
  placed p;
  place(&halves[1], &p);
  assert_int_equal(
      f.programs->program_create(f.device, &p.op, 1, sizeof p.op, p.workspace, &program, &error),
      CS_OK);
  for (int round = 0; round < 3; round++) {
    const uint64_t n = p.x_rows * halves[1].n_in;
    for (uint64_t i = 0; i < n; i++)
      p.x_values[i] = noise(i, 5 + (uint64_t)round);
    assert_int_equal(f.streams->stream_upload(f.stream, p.x, 0, p.x_values, 4 * n, &error), CS_OK);
    assert_int_equal(f.programs->program_launch(f.stream, program, &error), CS_OK);
    check(&halves[1], &p);
  }
  assert_int_equal(f.blas_matmuls(), 1); /* while it was recorded */
  f.programs->program_destroy(program);
  give_back(&p);
}

static uint32_t lines_about_blas(void) {
  uint32_t n = 0;
  for (const char *at = f.logged; (at = strstr(at, "own matmul kernels, not cuBLASLt: ")); at++)
    n++;
  return n;
}

static void a_failing_library_is_told_once_and_done_without(void **state) {
  (void)state;
  static const struct {
    const char *how;
    const char *words; /* NULL: no line */
  } cases[] = {{"blas_create=1", "cublasLtCreate failed (1)"},
               {"blas_none=1", NULL},
               {"blas_matmul=1", "cublasLtMatmul failed (13)"},
               {"blas_matmul=2", "cublasLtMatmul failed (13)"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    reopen("on");
    f.logged[0] = '\0';
    break_driver(cases[i].how);
    for (size_t j = 0; j < N_HALVES; j++)
      run(&halves[j]);
    assert_true(f.blas_matmuls() <= 1);
    assert_int_equal(lines_about_blas(), cases[i].words != NULL);
    if (cases[i].words) assert_non_null(strstr(f.logged, cases[i].words));
    unsetenv("CONSORT_FAKE_CUDA");
  }
}

/* ---- FP8 ---- */

/* e4m3 keeps 3 bits behind the leading one: between two powers of two values lie 1/8 of the smaller
 * one apart, so that an error has the variance 1/768 of its square where the mean square is 7/3 of
 * it. That is 5.6e-4 of a product's operand, and 1.1e-3 of a product whose operands err alone. */
#define FP8_LEAST 5e-4
#define FP8_MOST  1.7e-3

static void reopen_with_fp8(const char *how) {
  const cs_option option = {"fp8", "always"};
  close_device();
  break_driver(how);
  open_device(&option);
}

static const product fp8_products[] = {
    {.dtype = CS_DTYPE_BF16, .n = 40, .n_out = 48, .n_in = 64},
    {.dtype = CS_DTYPE_F16, .n = 33, .n_out = 16, .n_in = 100},
    {.dtype = CS_DTYPE_BF16, .n = 70, .n_out = 32, .n_in = 1100}};
#define N_FP8 (sizeof fp8_products / sizeof fp8_products[0])

static void run_within(const product *c, double least, double limit) {
  placed p;
  place(c, &p);
  enqueue(&p);
  check_within(c, &p, least, limit);
  give_back(&p);
}

static void products_in_fp8_err_as_e4m3_does(void **state) {
  (void)state;
  static const product added = {
      .dtype = CS_DTYPE_BF16, .n = 32, .n_out = 64, .n_in = 96, .residual = true};
  reopen_with_fp8("capability=9");
  for (size_t i = 0; i < N_FP8; i++)
    run_within(&fp8_products[i], FP8_LEAST, FP8_MOST);
  run_within(&added, CS_NMSE_LIMIT_HALF, FP8_MOST); /* what is added is exact */
  assert_int_equal(f.blas_fp8(), N_FP8 + 1);
}

static void what_fp8_does_not_suit_stays_in_halves(void **state) {
  (void)state;
  static const product others[] = {
      {.dtype = CS_DTYPE_BF16, .n = 31, .n_out = 48, .n_in = 64},               /* few rows */
      {.dtype = CS_DTYPE_BF16, .n = 40, .n_out = 50, .n_in = 64},               /* odd columns */
      {.dtype = CS_DTYPE_F16, .n = 40, .n_out = 48, .n_in = 64, .bias = true}}; /* float32 bias */
  reopen_with_fp8("capability=9");
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    run(&others[i]);
  assert_int_equal(f.blas_fp8(), 0);
  assert_int_equal(f.blas_matmuls(), 2);
  reopen_with_fp8("capability=9,fp8_none=1");
  run(&fp8_products[0]);
  assert_int_equal(f.blas_fp8(), 0);
  assert_int_equal(f.blas_matmuls(), 1);
}

static void a_failing_product_in_fp8_has_its_stand_ins(void **state) {
  (void)state;
  reopen_with_fp8("capability=9,blas_matmul=1");
  for (size_t i = 0; i < N_FP8; i++)
    run(&fp8_products[i]);
  assert_int_equal(f.blas_matmuls(), 0);
}

static void a_scale_follows_the_activations(void **state) {
  (void)state;
  placed p;
  reopen_with_fp8("capability=9");
  place(&fp8_products[0], &p);
  for (float factor = 1e-6f; factor < 1e7f; factor *= 1000) {
    cs_error error = CS_ERROR_INIT;
    const uint64_t n = p.x_rows * fp8_products[0].n_in;
    for (uint64_t i = 0; i < n; i++)
      p.x_values[i] = factor * noise(i, 7);
    assert_int_equal(f.streams->stream_upload(f.stream, p.x, 0, p.x_values, 4 * n, &error), CS_OK);
    enqueue(&p);
    check_within(&fp8_products[0], &p, FP8_LEAST, FP8_MOST);
  }
  give_back(&p);
}

static void fp8_is_refused_in_one_line(void **state) {
  (void)state;
  static const struct {
    const char *how, *cublaslt, *fp8;
    cs_status status;
    const char *words;
  } cases[] = {
      {"capability=8", "on", "always", CS_UNSUPPORTED, "8.9 is needed, the device has 8.0"},
      {"capability=9,blas_create=1", "on", "always", CS_UNSUPPORTED, "cuBLASLt"},
      {"capability=9", "off", "always", CS_INVALID_ARGUMENT, "cublaslt=off"},
      {"capability=9", "on", "on", CS_INVALID_ARGUMENT, "must be always or never"},
      {"capability=8", "off", "never", CS_OK, ""}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const cs_option options[] = {{"cublaslt", cases[i].cublaslt}, {"fp8", cases[i].fp8}};
    cs_error error = CS_ERROR_INIT;
    cs_plugin_device *device = NULL;
    break_driver(cases[i].how);
    assert_int_equal(
        f.devices->device_open(f.instance, 0, options, 2, sizeof options[0], &device, &error),
        cases[i].status);
    assert_int_equal(device != NULL, cases[i].status == CS_OK);
    assert_non_null(strstr(error.message, cases[i].words));
    if (device) f.devices->device_close(device);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(large_tiles_are_right),
                                     TEST(rows_are_grouped_by_expert),
                                     TEST(many_rows_of_halves_go_to_cublaslt),
                                     TEST(a_soft_cap_stays_with_the_own_kernels),
                                     TEST(a_choice_is_made_once_a_shape),
                                     TEST(another_number_of_rows_is_another_choice),
                                     TEST(a_recorded_product_repeats_with_new_bytes),
                                     TEST(a_failing_library_is_told_once_and_done_without),
                                     TEST(products_in_fp8_err_as_e4m3_does),
                                     TEST(what_fp8_does_not_suit_stays_in_halves),
                                     TEST(a_failing_product_in_fp8_has_its_stand_ins),
                                     TEST(a_scale_follows_the_activations),
                                     TEST(fp8_is_refused_in_one_line)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
