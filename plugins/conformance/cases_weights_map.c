/* The weights map table: packed weights that were saved and mapped give bit for bit what the packed
 * ones give, from an image that is read only; and what cannot be the image is refused. The contract
 * asks for bytes that weights_save wrote, so changed bytes are the host's to detect. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "format.h"
#include "optest.h"
#include "registry.h"

#define GUARD_BYTES 64
#define WEIGHT      2 /* operand of a matmul */

typedef struct image {
  unsigned char *bytes; /* a mapping of its own */
  uint64_t n_bytes;
  uint64_t layout_id;
} image;

/* A weight of the case's dtype, packed and run once; NULL when it cannot be. */
static optest *packed_matmul(kit *k, uint32_t dtype, const cs_matmul_params *params) {
  const uint64_t n = 3, n_out = 70, n_in = 512;
  optest *t = optest_begin(k, CS_OP_MATMUL, params);
  optest_operand(t, 0, CS_DTYPE_F32, 2, (uint64_t[]){n, n_out});
  optest_operand(t, 1, CS_DTYPE_F32, 2, (uint64_t[]){n, n_in});
  optest_fill_bell(t, 1, 1);
  optest_weight(t, WEIGHT, dtype, CS_USAGE_MATMUL, 2, (uint64_t[]){n_out, n_in});
  if (!optest_query(t, "3 rows, 70 x 512")) return NULL;
  optest_place(t);
  return t;
}

static bool has_map(kit *k) {
  const cs_weights_map_table *table = &k->plugin.weights_map;
  if (table->weights_layout && table->weights_save && table->weights_map) return true;
  kit_unsupported(k, "the plugin has no weights map table");
  return false;
}

/* weights_layout tells before packing what weights_pack tells after it. */
static void check_layout(kit *k, const optest *t) {
  cs_weight_part part;
  const cs_weight weight = optest_source(t, WEIGHT, &part);
  const cs_packed_info *packed = &t->operands[WEIGHT].packed_info;
  cs_packed_info info = {.struct_size = sizeof info};
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.weights_map.weights_layout(k->device, &weight, &info, &error), &error,
               "weights_layout");
  kit_check(k, info.layout_id == packed->layout_id && info.bytes == packed->bytes,
            "weights_layout says %llu bytes of layout 0x%llx, weights_pack %llu of 0x%llx",
            (unsigned long long)info.bytes, (unsigned long long)info.layout_id,
            (unsigned long long)packed->bytes, (unsigned long long)packed->layout_id);
}

static image save(kit *k, const optest *t) {
  const cs_packed_info *info = &t->operands[WEIGHT].packed_info;
  image result = {.n_bytes = info->bytes, .layout_id = info->layout_id};
  unsigned char *saved = kit_host_memory(k, (size_t)result.n_bytes + GUARD_BYTES);
  cs_error error = CS_ERROR_INIT;
  memset(saved + result.n_bytes, 0xa5, GUARD_BYTES);
  kit_check_ok(k,
               k->plugin.weights_map.weights_save(k->device, t->operands[WEIGHT].packed, saved,
                                                  result.n_bytes, &error),
               &error, "weights_save");
  for (int i = 0; i < GUARD_BYTES; i++)
    kit_check(k, saved[result.n_bytes + (uint64_t)i] == 0xa5,
              "weights_save writes beyond the bytes it was given");
  result.bytes = mmap(NULL, (size_t)result.n_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  kit_check(k, result.bytes != MAP_FAILED, "the kit has no memory for an image");
  memcpy(result.bytes, saved, (size_t)result.n_bytes);
  mprotect(result.bytes, (size_t)result.n_bytes, PROT_READ);
  return result;
}

static cs_status map(kit *k, const cs_weight *weight, const image *from, uint64_t n_bytes,
                     uint64_t layout_id, cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  const cs_status status = k->plugin.weights_map.weights_map(k->device, weight, layout_id,
                                                             from->bytes, n_bytes, out, error);
  if (status == CS_OK && *out) kit_track(k, KIT_MEMORY, *out);
  return status;
}

static void run(optest *t, cs_plugin_memory *weight, const unsigned char *before,
                unsigned char *after, const char *what) {
  memcpy(t->before, before, (size_t)t->arena_bytes);
  t->operands[WEIGHT].tensor.memory = weight;
  optest_execute(t, what);
  memcpy(after, t->after, (size_t)t->arena_bytes);
}

static void round_trip(kit *k, const kit_case *c) {
  const cs_matmul_params params = {.struct_size = sizeof params};
  if (!has_map(k)) return;
  optest *t = packed_matmul(k, c->dtype, &params);
  if (!t) return;
  check_layout(k, t);
  const image saved = save(k, t);
  cs_weight_part part;
  const cs_weight weight = optest_source(t, WEIGHT, &part);
  cs_plugin_memory *mapped;
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, map(k, &weight, &saved, saved.n_bytes, saved.layout_id, &mapped, &error), &error,
               "weights_map");
  kit_check(k, mapped != NULL, "weights_map answers CS_OK and NULL");
  unsigned char *before = kit_host_memory(k, (size_t)t->arena_bytes);
  unsigned char *by_packed = kit_host_memory(k, (size_t)t->arena_bytes);
  unsigned char *by_mapped = kit_host_memory(k, (size_t)t->arena_bytes);
  memcpy(before, t->before, (size_t)t->arena_bytes);
  run(t, t->operands[WEIGHT].packed, before, by_packed, "packed");
  run(t, mapped, before, by_mapped, "mapped");
  kit_check(k, memcmp(by_packed, by_mapped, (size_t)t->arena_bytes) == 0,
            "mapped weights give other results than packed ones");
  kit_release_all(k); /* nothing may read the image any more */
  munmap(saved.bytes, (size_t)saved.n_bytes);
}

static void expect_refusal(kit *k, const cs_weight *weight, const image *from, uint64_t n_bytes,
                           uint64_t layout_id, const char *what) {
  cs_plugin_memory *memory;
  cs_error error = CS_ERROR_INIT;
  const cs_status status = map(k, weight, from, n_bytes, layout_id, &memory, &error);
  kit_check(k, status != CS_OK, "weights_map takes %s", what);
  kit_check(k, memory == NULL, "refusing %s, weights_map leaves a handle behind", what);
  kit_check(k, error.code == status && error.message[0], "weights_map refuses %s without a word",
            what);
}

static void bad_images(kit *k, const kit_case *c) {
  const cs_matmul_params params = {.struct_size = sizeof params};
  if (!has_map(k)) return;
  optest *t = packed_matmul(k, c->dtype, &params);
  if (!t) return;
  const image saved = save(k, t);
  cs_weight_part part;
  const cs_weight weight = optest_source(t, WEIGHT, &part);
  const uint64_t n_bytes = saved.n_bytes, id = saved.layout_id;
  expect_refusal(k, &weight, &saved, n_bytes, id + 1, "an image of another layout");
  expect_refusal(k, &weight, &saved, n_bytes, ~id, "an image of another layout");
  expect_refusal(k, &weight, &saved, n_bytes - 1, id, "an image that lacks its last byte");
  expect_refusal(k, &weight, &saved, n_bytes / 2, id, "half an image");
  expect_refusal(k, &weight, &saved, 0, id, "no bytes");
  cs_weight other = weight;
  other.dims[0] *= 4;
  part.bytes *= 4;
  expect_refusal(k, &other, &saved, n_bytes, id, "the image of a smaller weight");
  kit_release_all(k);
  munmap(saved.bytes, (size_t)n_bytes);
}

void kit_add_weights_map_cases(kit_registry *r) {
  static const uint32_t dtypes[] = {CS_DTYPE_F32,  CS_DTYPE_F16,  CS_DTYPE_BF16, CS_DTYPE_Q8_0,
                                    CS_DTYPE_Q4_0, CS_DTYPE_Q4_K, CS_DTYPE_Q6_K};
  for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
    kit_add(r, &(kit_case){.dtype = dtypes[i], .run = round_trip}, "weights_map/%s/round_trip",
            format_name(dtypes[i]));
    kit_add(r, &(kit_case){.dtype = dtypes[i], .run = bad_images}, "weights_map/%s/bad_images",
            format_name(dtypes[i]));
  }
}
