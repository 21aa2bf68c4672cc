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
  return harness_open_int8(h, kernel, threads, "auto");
}

bool harness_open_int8(cpu_harness *h, const char *kernel, const char *threads, const char *int8) {
  memset(h, 0, sizeof *h);
  load_tables(h);
  const cs_option options[] = {{"threads", threads}, {"kernel", kernel}, {"int8", int8}};
  assert_int_equal(h->devices->instance_create(&test_host, &h->instance, NULL), CS_OK);
  const cs_status status =
      h->devices->device_open(h->instance, 0, options, 3, sizeof options[0], &h->device, NULL);
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

static void random_block(uint32_t dtype, unsigned char *block, double *values) {
  const uint16_t half = cs_f16_from_f32((float)(0.01 + 0.005 * harness_uniform()));
  const double scale = (double)cs_f32_from_f16(half);
  memcpy(block, &half, sizeof half);
  for (uint32_t i = 0; i < (dtype == CS_DTYPE_Q8_0 ? 32 : 16); i++) {
    const unsigned char byte = (unsigned char)(128 + 127.5 * harness_uniform());
    block[2 + i] = byte;
    if (dtype == CS_DTYPE_Q8_0) {
      values[i] = scale * (int8_t)byte;
    } else {
      values[i] = scale * ((byte & 15) - 8);
      values[i + 16] = scale * ((byte >> 4) - 8);
    }
  }
}

void harness_weights(uint32_t dtype, void *bytes, double *values, uint64_t n) {
  const uint64_t block_bytes = cs_sdk_dtype_bytes(dtype, 32);
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
    } else if (i % 32 == 0) {
      random_block(dtype, (unsigned char *)bytes + i / 32 * block_bytes, values + i);
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
