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

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  world w;
  gguf_builder g = {0};
  add_tiny(&g, &(tiny_options){.vector_type = F16_TYPE});
  write_gguf(&g, w.path);
  assert_int_equal(cs_model_open(w.path, &w.model, NULL), CS_OK);
  fail_each(&w, open_model, "open", 15);
  fail_each(&w, open_vocabulary, "open vocabulary", 10);
  fail_each(&w, open_shape, "open shape", 8);
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
