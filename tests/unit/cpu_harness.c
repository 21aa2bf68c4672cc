#include "cpu_harness.h"

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "consort/half.h"
#include "sdk_host.h"

uint64_t harness_seed = 1;

const char *const harness_kernels[HARNESS_N_KERNELS] = {
    "generic", "avx2", "avx2vnni", "avx512", "neon", "neon-dotprod", "neon-i8mm"};

bool harness_processor_has(const char *word) {
  FILE *file = getenv("CONSORT_TEST_KERNELS") ? NULL : fopen("/proc/cpuinfo", "r");
  char line[8192];
  bool has = false;
  while (file && !has && fgets(line, sizeof line, file)) {
    if (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0) continue;
    for (char *at = strtok(line, " \t\n"); at && !has; at = strtok(NULL, " \t\n"))
      has = strcmp(at, word) == 0;
  }
  if (file) fclose(file);
  return has;
}

static void load_tables(cpu_harness *h) {
  const char *folder = getenv("CONSORT_TEST_PLUGINS");
  char path[1024];
  snprintf(path, sizeof path, "%s/consort-cpu.so", folder ? folder : ".");
  h->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!h->library) fail_msg("%s", dlerror());
  cs_plugin_query_fn query;
  *(void **)&query = dlsym(h->library, CS_PLUGIN_QUERY_SYMBOL);
  cs_plugin plugin = {.struct_size = sizeof plugin};
  assert_int_equal(query(&test_host, &plugin), CS_OK);
  h->devices = plugin.table(CS_TABLE_DEVICE, 0);
  h->memories = plugin.table(CS_TABLE_MEMORY, 0);
  h->streams = plugin.table(CS_TABLE_STREAM, 0);
  h->semaphores = plugin.table(CS_TABLE_SEMAPHORE, 0);
  h->capability = plugin.table(CS_TABLE_CAPABILITY, 0);
  h->eager = plugin.table(CS_TABLE_EAGER, 0);
  h->program = plugin.table(CS_TABLE_PROGRAM, 0);
}

bool harness_open(cpu_harness *h, const char *kernel, const char *threads) {
  return harness_open_rounding(h, kernel, threads, "auto");
}

bool harness_open_rounding(cpu_harness *h, const char *kernel, const char *threads,
                           const char *rounding) {
  memset(h, 0, sizeof *h);
  load_tables(h);
  const cs_option options[] = {
      {"threads", threads}, {"kernel", kernel}, {"int8", rounding}, {"bf16", rounding}};
  assert_int_equal(h->devices->instance_create(&test_host, &h->instance, NULL), CS_OK);
  const cs_status status =
      h->devices->device_open(h->instance, 0, options, 4, sizeof options[0], &h->device, NULL);
  if (status != CS_OK) {
    h->devices->instance_destroy(h->instance);
    dlclose(h->library);
    return false;
  }
  assert_int_equal(h->streams->stream_create(h->device, &h->stream, NULL), CS_OK);
  assert_int_equal(h->semaphores->semaphore_create(h->device, 0, &h->semaphore, NULL), CS_OK);
  return true;
}

void harness_close(cpu_harness *h) {
  h->streams->stream_destroy(h->stream);
  h->semaphores->semaphore_destroy(h->semaphore);
  h->memories->memory_free(h->device, h->workspace);
  h->devices->device_close(h->device);
  h->devices->instance_destroy(h->instance);
  dlclose(h->library);
}

/* ---- tensors ---- */

cs_tensor harness_tensor(cpu_harness *h, uint32_t dtype, const void *data, uint64_t pad,
                         uint32_t rank, const uint64_t *dims) {
  cs_tensor tensor = {.struct_size = sizeof tensor, .dtype = dtype, .rank = rank};
  memcpy(tensor.dims, dims, rank * sizeof *dims);
  const uint64_t rows = cs_sdk_tensor_rows(&tensor), row_bytes = cs_sdk_tensor_stride(&tensor);
  if (pad && rank > 1) tensor.row_stride_bytes = row_bytes + pad;
  const uint64_t stride = cs_sdk_tensor_stride(&tensor);
  const uint64_t bytes = rows * stride + 64;
  assert_int_equal(
      h->memories->memory_allocate(h->device, bytes, CS_MEMORY_DEVICE, &tensor.memory, NULL),
      CS_OK);
  memset(h->memories->memory_host_pointer(h->device, tensor.memory), 0xa5, bytes);
  for (uint64_t i = 0; data && i < rows; i++)
    memcpy(harness_row(h, &tensor, i), (const char *)data + i * row_bytes, row_bytes);
  return tensor;
}

cs_tensor harness_packed(cpu_harness *h, uint32_t dtype, uint32_t usage, const void *data,
                         uint64_t bytes, uint32_t rank, const uint64_t *dims) {
  const cs_weight_part part = {
      .struct_size = sizeof part, .dtype = dtype, .data = data, .bytes = bytes};
  cs_weight weight = {.struct_size = sizeof weight,
                      .source = CS_WEIGHT_GGUF,
                      .dtype = dtype,
                      .usage = usage,
                      .rank = rank,
                      .n_parts = 1,
                      .part_stride = sizeof part,
                      .parts = &part};
  cs_tensor tensor = {
      .struct_size = sizeof tensor, .dtype = dtype, .layout = CS_LAYOUT_PACKED, .rank = rank};
  memcpy(weight.dims, dims, rank * sizeof *dims);
  memcpy(tensor.dims, dims, rank * sizeof *dims);
  cs_packed_info info = {.struct_size = sizeof info};
  assert_int_equal(h->capability->weights_pack(h->device, &weight, &tensor.memory, &info, NULL),
                   CS_OK);
  assert_true(info.bytes > 0 && info.layout_id != 0);
  return tensor;
}

void *harness_row(cpu_harness *h, const cs_tensor *tensor, uint64_t row) {
  return (char *)h->memories->memory_host_pointer(h->device, tensor->memory) +
         row * cs_sdk_tensor_stride(tensor);
}

void harness_free(cpu_harness *h, cs_tensor *tensors, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    if (tensors[i].memory) h->memories->memory_free(h->device, tensors[i].memory);
}

/* ---- ops ---- */

static cs_op make_op(uint32_t id, const cs_tensor *operands, uint32_t n, const void *params) {
  return (cs_op){.struct_size = sizeof(cs_op),
                 .id = id,
                 .n_operands = n,
                 .operand_stride = sizeof *operands,
                 .operands = operands,
                 .params = params};
}

bool harness_allows(cpu_harness *h, uint32_t id, const cs_tensor *operands, uint32_t n,
                    const void *params, cs_op_answer *answer) {
  const cs_op op = make_op(id, operands, n, params);
  *answer = (cs_op_answer){.struct_size = sizeof *answer};
  assert_int_equal(h->capability->op_query(h->device, &op, answer, NULL), CS_OK);
  return answer->support != CS_SUPPORT_NO;
}

static void grow_workspace(cpu_harness *h, uint64_t bytes) {
  if (bytes <= h->workspace_bytes) return;
  h->memories->memory_free(h->device, h->workspace);
  assert_int_equal(
      h->memories->memory_allocate(h->device, bytes, CS_MEMORY_DEVICE, &h->workspace, NULL), CS_OK);
  h->workspace_bytes = bytes;
}

cs_status harness_run(cpu_harness *h, uint32_t id, const cs_tensor *operands, uint32_t n,
                      const void *params, cs_error *error) {
  cs_op_answer answer;
  if (!harness_allows(h, id, operands, n, params, &answer))
    fail_msg("%s: %s", cs_sdk_op_name(id), answer.reason);
  grow_workspace(h, answer.workspace_bytes);
  const cs_op op = make_op(id, operands, n, params);
  const cs_status status = h->eager->ops_enqueue(h->stream, &op, 1, sizeof op, h->workspace, error);
  if (status != CS_OK) return status;
  h->streams->stream_signal(h->stream, h->semaphore, ++h->signalled, NULL);
  return h->semaphores->semaphore_wait(h->semaphore, h->signalled, 60000000, error);
}

/* ---- data ---- */

double harness_uniform(void) {
  harness_seed = harness_seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (double)(harness_seed >> 11) * 0x1p-52 - 1;
}

void harness_fill(float *x, uint64_t n) {
  for (uint64_t i = 0; i < n; i++)
    x[i] = (float)harness_uniform();
}

static float half_at(const unsigned char *at) {
  return cs_f32_from_f16((uint16_t)(at[0] | at[1] << 8));
}

static unsigned nibble_at(const unsigned char *at, uint32_t i) {
  return i < 16 ? at[i] & 15u : at[i - 16] >> 4;
}

/* Scale (which 0) or minimum (1) of the j-th 32 of a Q4_K or Q5_K block: numbers of 6 bits in 12
 * bytes, of which the last four hold the low nibbles of numbers 4 to 7. */
static unsigned k_number(const unsigned char *s, uint32_t j, uint32_t which) {
  const unsigned char *own = s + 4 * which;
  if (j < 4) return own[j] & 63u;
  const unsigned low = which ? s[j + 4] >> 4 : s[j + 4] & 15u;
  return low | (unsigned)(own[j - 4] >> 6) << 4;
}

static float k_value(const unsigned char *block, uint32_t i, bool fifth) {
  const uint32_t j = i / 32, within = i % 32;
  const unsigned char *quants = block + (fifth ? 48 : 16) + i / 64 * 32;
  unsigned q = j % 2 ? quants[within] >> 4 : quants[within] & 15u;
  if (fifth) q += (block[16 + within] >> j & 1u) * 16;
  const float scale = half_at(block) * (float)k_number(block + 4, j, 0);
  return scale * (float)q - half_at(block + 2) * (float)k_number(block + 4, j, 1);
}

static float q6_k_value(const unsigned char *block, uint32_t i) {
  const uint32_t half = i / 128, quarter = i % 128 / 32, within = i % 32;
  const unsigned char byte = block[half * 64 + quarter % 2 * 32 + within];
  const unsigned low = quarter < 2 ? byte & 15u : byte >> 4;
  const unsigned high = block[128 + half * 32 + within] >> (2 * quarter) & 3u;
  return half_at(block + 208) * (float)(int8_t)block[192 + i / 16] *
         (float)((int)(low | high << 4) - 32);
}

/* Element i of a block, by the formulas of GGUF's formats. */
static float block_value(uint32_t dtype, const unsigned char *block, uint32_t i) {
  const float d = half_at(block);
  switch (dtype) {
  case CS_DTYPE_Q8_0:
    return d * (float)(int8_t)block[2 + i];
  case CS_DTYPE_Q4_0:
    return d * (float)((int)nibble_at(block + 2, i) - 8);
  case CS_DTYPE_Q4_1:
    return d * (float)nibble_at(block + 4, i) + half_at(block + 2);
  case CS_DTYPE_Q5_0:
    return d * (float)((int)(nibble_at(block + 6, i) | (block[2 + i / 8] >> i % 8 & 1u) << 4) - 16);
  case CS_DTYPE_Q5_1:
    return d * (float)(nibble_at(block + 8, i) | (block[4 + i / 8] >> i % 8 & 1u) << 4) +
           half_at(block + 2);
  case CS_DTYPE_Q4_K:
    return k_value(block, i, false);
  case CS_DTYPE_Q5_K:
    return k_value(block, i, true);
  default:
    return q6_k_value(block, i);
  }
}

/* Random bytes, with scales and minima of a sound size. */
static void random_block(uint32_t dtype, unsigned char *block, double *values) {
  const uint32_t n = harness_block_elements(dtype);
  const uint64_t bytes = cs_sdk_dtype_bytes(dtype, n);
  for (uint64_t i = 0; i < bytes; i++)
    block[i] = (unsigned char)(128 + 127.5 * harness_uniform());
  const bool has_min = dtype == CS_DTYPE_Q4_1 || dtype == CS_DTYPE_Q5_1;
  const double size = n == 256 ? 0.04 : 1; /* where scales are products, one factor is large */
  const uint16_t d = cs_f16_from_f32((float)(size * (0.01 + 0.005 * harness_uniform())));
  const double offset = (has_min ? -0.1 : 0.1) + 0.02 * harness_uniform();
  const uint16_t min = cs_f16_from_f32((float)(size * offset));
  memcpy(block + (dtype == CS_DTYPE_Q6_K ? 208 : 0), &d, sizeof d);
  if (has_min || dtype == CS_DTYPE_Q4_K || dtype == CS_DTYPE_Q5_K)
    memcpy(block + 2, &min, sizeof min);
  for (uint32_t i = 0; i < n; i++)
    values[i] = block_value(dtype, block, i);
}

uint32_t harness_block_elements(uint32_t dtype) {
  if (dtype < CS_DTYPE_Q8_0) return 1;
  return dtype >= CS_DTYPE_Q2_K && dtype <= CS_DTYPE_Q6_K ? 256 : 32;
}

void harness_weights(uint32_t dtype, void *bytes, double *values, uint64_t n) {
  const uint32_t elements = harness_block_elements(dtype);
  const uint64_t block_bytes = cs_sdk_dtype_bytes(dtype, elements);
  for (uint64_t i = 0; i < n; i++) {
    const float x = (float)harness_uniform();
    if (dtype == CS_DTYPE_F32) {
      ((float *)bytes)[i] = x;
      values[i] = x;
    } else if (dtype == CS_DTYPE_F16) {
      ((uint16_t *)bytes)[i] = cs_f16_from_f32(x);
      values[i] = cs_f32_from_f16(((uint16_t *)bytes)[i]);
    } else if (dtype == CS_DTYPE_BF16) {
      ((uint16_t *)bytes)[i] = cs_bf16_from_f32(x);
      values[i] = cs_f32_from_bf16(((uint16_t *)bytes)[i]);
    } else if (i % elements == 0) {
      random_block(dtype, (unsigned char *)bytes + i / elements * block_bytes, values + i);
    }
  }
}

double harness_nmse(const double *reference, const float *x, uint64_t n) {
  double error = 0, power = 0;
  for (uint64_t i = 0; i < n; i++) {
    error += (x[i] - reference[i]) * (x[i] - reference[i]);
    power += reference[i] * reference[i];
  }
  if (error == 0) return 0;
  return isnan(error) || power == 0 ? INFINITY : error / power;
}
