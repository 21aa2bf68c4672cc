/* Every allocation of the model code fails once: the call says so, and nothing leaks (the sanitizer
 * builds see leaks). The linker sends malloc and its kin through the functions below. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/forward.h"
#include "models/kv_pool.h"
#include "models/model.h"
#include "models/model_write.h"
#include "models/quantize.h"
#include "models/sampler.h"
#include "models/tokenizer.h"

static long until_failure = -1; /* allocations that still succeed; -1: all */

static bool fails(void) {
  if (until_failure < 0) return false;
  return until_failure-- == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *memory, size_t n);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *memory, size_t n);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t n) {
  return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each) {
  return fails() ? NULL : __real_calloc(n, each);
}

void *__wrap_realloc(void *memory, size_t n) {
  return fails() ? NULL : __real_realloc(memory, n);
}

char *__wrap_strdup(const char *text) {
  return fails() ? NULL : __real_strdup(text);
}

typedef struct world {
  char path[64];
  char folder[64];
  cs_model *model;
} world;

/* Something that allocates, and undoes what it made. */
typedef cs_status (*action)(const world *w, cs_error *error);

static cs_status open_model(const world *w, cs_error *error) {
  cs_model *model;
  const cs_status status = cs_model_open(w->path, &model, error);
  cs_model_release(model);
  return status;
}

static cs_status open_folder(const world *w, cs_error *error) {
  cs_model *model;
  const cs_status status = cs_model_open(w->folder, &model, error);
  cs_model_release(model);
  return status;
}

static cs_status quantize_folder(const world *w, cs_error *error) {
  char out[80];
  snprintf(out, sizeof out, "%s/out.gguf", w->folder);
  const cs_quantize_options options = {.type = "Q8_0"};
  const cs_status status = cs_quantize(w->folder, out, &options, error);
  assert_int_equal(unlink(out), status == CS_OK ? 0 : -1);
  return status;
}

static cs_status open_vocabulary(const world *w, cs_error *error) {
  cs_model *model;
  const cs_status status = cs_model_open_vocabulary(w->path, &model, error);
  cs_model_release(model);
  return status;
}

static cs_status open_shape(const world *w, cs_error *error) {
  (void)w;
  cs_model *model;
  const cs_status status = cs_model_open_shape("llama-tiny", CS_DTYPE_Q4_0, 1, &model, error);
  cs_model_release(model);
  return status;
}

static cs_status write_shape(const world *w, cs_error *error) {
  char out[80];
  cs_model *model;
  snprintf(out, sizeof out, "%s.shape", w->path);
  cs_status status = cs_model_open_shape("llama-tiny", CS_DTYPE_Q4_0, 1, &model, error);
  if (status != CS_OK) return status;
  status = cs_model_write(model, out, NULL, NULL, error);
  assert_int_equal(unlink(out), status == CS_OK ? 0 : -1);
  cs_model_release(model);
  return status;
}

static cs_status emit_forward(const world *w, cs_error *error) {
  const cs_forward_shape shape = {.n_tokens = 4,
                                  .n_seqs = 1,
                                  .max_blocks = 1,
                                  .n_logit_rows = 1,
                                  .goal = CS_FORWARD_ARGMAX,
                                  .kv_dtype = CS_DTYPE_F32,
                                  .kv_block_tokens = 16,
                                  .kv_n_blocks = 1};
  cs_op_list *list;
  const cs_status status = cs_forward_emit(w->model, &shape, &list, error);
  cs_op_list_destroy(list);
  return status;
}

static cs_status encode(const world *w, cs_error *error) {
#define LONG "abc bc abc bc abc bc abc bc abc bc abc bc abc bc abc bc abc bc abc bc"
  static const char text[] = LONG "<user>" LONG "</s>" LONG;
#undef LONG
  int32_t *ids;
  size_t n;
  const cs_status status = cs_tokenizer_encode(cs_model_tokenizer(w->model), text, sizeof text - 1,
                                               true, &ids, &n, error);
  free(ids);
  return status;
}

static cs_status draw(const world *w, cs_error *error) {
  (void)w;
  const cs_sampler_params params = {.temperature = 1, .top_p = 0.9f};
  int32_t token;
  return cs_sample(&params, 0, (float[]){1, 2, 3}, 3, &token, error);
}

static cs_status reserve(const world *w, cs_error *error) {
  (void)w;
  cs_kv_pool *pool;
  cs_kv_sequence sequence = {0};
  cs_status status = cs_kv_pool_create(8, 16, &pool, error);
  if (status != CS_OK) return status;
  for (uint64_t n = 1; status == CS_OK && n < 128; n += 32) {
    const uint32_t n_free = cs_kv_pool_n_free(pool);
    status = cs_kv_sequence_reserve(pool, &sequence, n, error);
    if (status != CS_OK) assert_int_equal(cs_kv_pool_n_free(pool), n_free);
  }
  cs_kv_sequence_release(pool, &sequence);
  cs_kv_pool_destroy(pool);
  return status;
}

/* Fails the first allocation, then the second, until none is left to fail. */
static void fail_each(const world *w, action act, const char *name, long at_least) {
  long n = 0;
  for (;; n++) {
    cs_error error = CS_ERROR_INIT;
    until_failure = n;
    const cs_status status = act(w, &error);
    const bool all_succeeded = until_failure >= 0;
    until_failure = -1;
    if (all_succeeded) {
      assert_int_equal(status, CS_OK);
      break;
    }
    if (status != CS_OUT_OF_MEMORY || error.code != CS_OUT_OF_MEMORY)
      fail_msg("%s, allocation %ld: status %d", name, n, status);
    assert_true(strlen(error.message) > 0);
  }
  if (n < at_least) fail_msg("%s: only %ld allocations were seen", name, n);
}

static void put_file(const char *folder, const char *name, const void *data, size_t n) {
  char path[96];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, n, file), n);
  fclose(file);
}

/* Adds a BF16 tensor of ones to a safetensors header. */
static void describe(char *header, size_t *used, size_t *data_bytes, const char *name, int rows,
                     int columns) {
  char shape[32];
  const size_t n = (size_t)rows * (size_t)(columns ? columns : 1) * 2;
  snprintf(shape, sizeof shape, columns ? "[%d,%d]" : "[%d]", rows, columns);
  *used += (size_t)sprintf(header + *used,
                           "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                           *used ? ',' : '{', name, shape, *data_bytes, *data_bytes + n);
  *data_bytes += n;
}

/* One layer of two experts with llama3 scaling, as the transformers library would save it. */
static void write_folder(world *w) {
  static const char config[] =
      "{\"model_type\":\"mixtral\",\"hidden_size\":32,\"intermediate_size\":32,"
      "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
      "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"num_local_experts\":2,"
      "\"num_experts_per_tok\":1,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
      "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
      "\"original_max_position_embeddings\":16}}";
  static const struct {
    const char *name;
    int rows;
    int columns;
  } tensors[] = {{"model.embed_tokens.weight", 8, 32},
                 {"model.norm.weight", 32, 0},
                 {"model.layers.0.input_layernorm.weight", 32, 0},
                 {"model.layers.0.post_attention_layernorm.weight", 32, 0},
                 {"model.layers.0.self_attn.q_proj.weight", 32, 32},
                 {"model.layers.0.self_attn.k_proj.weight", 16, 32},
                 {"model.layers.0.self_attn.v_proj.weight", 16, 32},
                 {"model.layers.0.self_attn.o_proj.weight", 32, 32},
                 {"model.layers.0.block_sparse_moe.gate.weight", 2, 32},
                 {"model.layers.0.block_sparse_moe.experts.0.w1.weight", 32, 32},
                 {"model.layers.0.block_sparse_moe.experts.0.w2.weight", 32, 32},
                 {"model.layers.0.block_sparse_moe.experts.0.w3.weight", 32, 32},
                 {"model.layers.0.block_sparse_moe.experts.1.w1.weight", 32, 32},
                 {"model.layers.0.block_sparse_moe.experts.1.w2.weight", 32, 32},
                 {"model.layers.0.block_sparse_moe.experts.1.w3.weight", 32, 32}};
  static uint8_t file[1 << 16];
  char *header = (char *)file + 8;
  size_t used = 0, n_data = 0;
  for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
    describe(header, &used, &n_data, tensors[i].name, tensors[i].rows, tensors[i].columns);
  header[used++] = '}';
  while (used % 8)
    header[used++] = ' ';
  memcpy(file, &(uint64_t){used}, 8);
  assert_true(8 + used + n_data < sizeof file);
  for (size_t i = 0; i < n_data; i += 2)
    memcpy(header + used + i, &(uint16_t){0x3f80}, 2);
  snprintf(w->folder, sizeof w->folder, "/tmp/consort-memory-XXXXXX");
  assert_non_null(mkdtemp(w->folder));
  put_file(w->folder, "config.json", config, sizeof config - 1);
  put_file(w->folder, "model.safetensors", file, 8 + used + n_data);
}

static void remove_folder(const world *w) {
  char path[96];
  snprintf(path, sizeof path, "%s/config.json", w->folder);
  unlink(path);
  snprintf(path, sizeof path, "%s/model.safetensors", w->folder);
  unlink(path);
  assert_int_equal(rmdir(w->folder), 0);
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  world w;
  gguf_builder g = {0};
  add_tiny(&g, &(tiny_options){.vector_type = F16_TYPE});
  write_gguf(&g, w.path);
  assert_int_equal(cs_model_open(w.path, &w.model, NULL), CS_OK);
  fail_each(&w, open_model, "open", 15);
  write_folder(&w);
  fail_each(&w, open_folder, "open folder", 20);
  fail_each(&w, quantize_folder, "quantize", 25);
  remove_folder(&w);
  fail_each(&w, open_vocabulary, "open vocabulary", 10);
  fail_each(&w, open_shape, "open shape", 8);
  fail_each(&w, write_shape, "write shape", 20);
  fail_each(&w, emit_forward, "forward", 5);
  fail_each(&w, encode, "encode", 8);
  fail_each(&w, draw, "draw", 1);
  fail_each(&w, reserve, "reserve", 4);
  cs_model_release(w.model);
  unlink(w.path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_failed_allocation_is_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
