/* tokenizer.json written as GGUF metadata: the golden strings get the same ids from both, and what
 * GGUF cannot say is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/text_file.h"
#include "models/tokenizer_gguf.h"
#include "tokenizer_data.h"

typedef struct written {
  void *head;
  cs_gguf *gguf;
  cs_tokenizer *tokenizer;
} written;

static json_t *make_variant(const data *d, const char *name) {
  return make_root(d, json_object_get(d->variants, name));
}

/* The root is consumed. */
static cs_tokenizer *read_json(json_t *root, const char *config) {
  cs_error error = CS_ERROR_INIT;
  cs_tokenizer *t;
  char *text = json_dumps(root, 0);
  assert_non_null(text);
  if (cs_tokenizer_create_json("t.json", text, strlen(text), config, config ? strlen(config) : 0,
                               &t, &error) != CS_OK)
    fail_msg("%s", error.message);
  free(text);
  json_decref(root);
  return t;
}

static cs_status write_back(const cs_tokenizer *t, uint64_t n_rows, written *out, cs_error *error) {
  size_t bytes;
  *out = (written){0};
  cs_gguf_writer *writer = cs_gguf_writer_create();
  assert_non_null(writer);
  const cs_status status = cs_tokenizer_to_gguf(t, 2, n_rows, writer, error);
  assert_int_equal(cs_gguf_writer_finish(writer, &out->head, &bytes, NULL), CS_OK);
  cs_gguf_writer_destroy(writer);
  assert_int_equal(cs_gguf_open_memory("g", out->head, bytes, &out->gguf, NULL), CS_OK);
  if (status == CS_OK)
    assert_int_equal(cs_tokenizer_create(out->gguf, &out->tokenizer, error), CS_OK);
  else
    assert_false(cs_gguf_has(out->gguf, "tokenizer.ggml.model")); /* nothing was written */
  return status;
}

static void finish(written *w) {
  cs_tokenizer_destroy(w->tokenizer);
  cs_gguf_close(w->gguf);
  free(w->head);
}

static void assert_text(const written *w, const char *key, const char *expected) {
  cs_gguf_string text;
  assert_true(cs_gguf_get_string(w->gguf, key, &text));
  if (text.bytes != strlen(expected) || memcmp(text.data, expected, text.bytes) != 0)
    fail_msg("%s is \"%.*s\", not \"%s\"", key, (int)text.bytes, text.data, expected);
}

/* How many strings get other ids. */
static size_t compare_ids(const data *d, const char *name, const cs_tokenizer *a,
                          const cs_tokenizer *b, uint32_t special) {
  size_t index, n_wrong = 0;
  json_t *string;
  assert_true(json_array_size(d->strings) >= 2000);
  json_array_foreach(d->strings, index, string) {
    int32_t *ids[2];
    size_t n[2];
    for (int i = 0; i < 2; i++)
      assert_int_equal(cs_tokenizer_encode(i ? b : a, json_string_value(string),
                                           json_string_length(string), special, &ids[i], &n[i],
                                           NULL),
                       CS_OK);
    const bool same =
        n[0] == n[1] && (n[0] == 0 || memcmp(ids[0], ids[1], n[0] * sizeof *ids[0]) == 0);
    if (!same && n_wrong++ < 5)
      print_message("%s: other ids for string %zu: \"%s\"\n", name, index,
                    json_string_value(string));
    free(ids[0]);
    free(ids[1]);
  }
  return n_wrong;
}

static void assert_same_ids(const data *d, const char *name, const cs_tokenizer *t,
                            const written *w) {
  assert_int_equal(compare_ids(d, name, t, w->tokenizer, CS_ENCODE_SPECIAL), 0);
  assert_int_equal(compare_ids(d, name, t, w->tokenizer, CS_ENCODE_PLAIN), 0);
}

static void a_byte_level_tokenizer_finds_the_name_of_its_steps(void **state) {
  static const char *const cases[][2] = {
      {"gpt-2", "gpt-2"},         {"llama3", "llama-bpe"},
      {"qwen2", "qwen2"},         {"deepseek-llm", "deepseek-llm"},
      {"falcon", "falcon"},       {"deepseek-coder", "deepseek-coder"},
      {"starcoder", "starcoder"}, {"deepseek-v3", "deepseek-v3"},
      {"command-r", "command-r"}, {"bloom", "bloom"},
      {"tekken", "tekken"},       {"gpt-4o", "gpt-4o"}};
  const data *d = *state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    cs_error error = CS_ERROR_INIT;
    written w;
    cs_tokenizer *t = read_json(make_variant(d, cases[i][0]), NULL);
    if (write_back(t, 1500, &w, &error) != CS_OK) fail_msg("%s: %s", cases[i][0], error.message);
    assert_text(&w, "tokenizer.ggml.model", "gpt2");
    assert_text(&w, "tokenizer.ggml.pre", cases[i][1]);
    assert_int_equal(cs_tokenizer_n_vocab(w.tokenizer), 1500);
    assert_string_equal(cs_tokenizer_piece(w.tokenizer, 1499), "[PAD1499]");
    assert_same_ids(d, cases[i][0], t, &w);
    finish(&w);
    cs_tokenizer_destroy(t);
  }
}

static void ignore_merges_may_differ_where_merges_make_every_piece(void **state) {
  const data *d = *state;
  for (int whole = 0; whole < 2; whole++) {
    cs_error error = CS_ERROR_INIT;
    written w;
    json_t *root = make_variant(d, "qwen2"), *model = json_object_get(root, "model");
    json_t *merges = json_object_get(model, "merges");
    json_object_set_new(model, "ignore_merges", json_true());
    if (whole) json_array_remove(merges, json_array_size(merges) - 1);
    cs_tokenizer *t = read_json(root, NULL);
    assert_int_equal(write_back(t, 0, &w, &error), whole ? CS_UNSUPPORTED : CS_OK);
    if (!whole) assert_text(&w, "tokenizer.ggml.pre", "qwen2");
    if (!whole) assert_same_ids(d, "qwen2 with ignore_merges", t, &w);
    finish(&w);
    cs_tokenizer_destroy(t);
  }
}

static void added_tokens_and_ids_keep_their_kind(void **state) {
  const data *d = *state;
  written w;
  uint64_t value;
  bool adds;
  cs_error error = CS_ERROR_INIT;
  json_t *root = make_variant(d, "gpt-2");
  json_object_set_new(
      root, "post_processor",
      json_loads("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"b\"}},"
                 "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"b\":{\"ids\":[1401]}}}",
                 0, NULL));
  cs_tokenizer *t = read_json(root, "{\"eos_token\":{\"content\":\"<|im_end|>\"}}");
  if (write_back(t, 0, &w, &error) != CS_OK) fail_msg("%s", error.message);
  static const struct {
    const char *key;
    uint64_t value;
  } ids[] = {{"tokenizer.ggml.bos_token_id", 1401},
             {"tokenizer.ggml.eos_token_id", 1402},
             {"tokenizer.ggml.padding_token_id", 2}};
  for (size_t i = 0; i < 3; i++)
    assert_true(cs_gguf_get_u64(w.gguf, ids[i].key, &value) && value == ids[i].value);
  assert_true(cs_gguf_get_bool(w.gguf, "tokenizer.ggml.add_bos_token", &adds) && adds);
  assert_true(cs_gguf_get_bool(w.gguf, "tokenizer.ggml.add_eos_token", &adds) && !adds);
  static const uint64_t types[][2] = {{0, 1}, {1400, 3}, {1402, 3}, {1403, 4}, {1404, 4}};
  for (size_t i = 0; i < 5; i++)
    assert_true(cs_gguf_array_u64(w.gguf, "tokenizer.ggml.token_type", types[i][0], &value) &&
                value == types[i][1]);
  assert_true(cs_tokenizer_is_end(w.tokenizer, 1402));
  assert_same_ids(d, "gpt-2 with BOS", t, &w);
  finish(&w);
  cs_tokenizer_destroy(t);
}

/* ---- scores ---- */

static int compare_made(const void *a, const void *b, void *ranks) {
  const char *left = json_string_value(json_array_get(*(json_t *const *)a, 2));
  const char *right = json_string_value(json_array_get(*(json_t *const *)b, 2));
  const json_int_t x = json_integer_value(json_object_get(ranks, left));
  const json_int_t y = json_integer_value(json_object_get(ranks, right));
  return x < y ? -1 : x > y;
}

/* As converters list the merges of a SentencePiece file: every pair that makes a piece, in the
 * order of the pieces' scores. */
static void list_all_pairs(json_t *root) {
  json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
  json_t *ranks = json_object(), *pairs = json_array(), *merge;
  const char *piece;
  json_t *id;
  size_t i;
  json_array_foreach(json_object_get(model, "merges"), i, merge) {
    char joined[256];
    snprintf(joined, sizeof joined, "%s%s", json_string_value(json_array_get(merge, 0)),
             json_string_value(json_array_get(merge, 1)));
    if (!json_object_get(ranks, joined)) json_object_set_new(ranks, joined, json_integer((int)i));
  }
  json_object_foreach(vocab, piece, id) {
    for (size_t at = 1; json_object_get(ranks, piece) && at < strlen(piece); at++) {
      char left[256];
      snprintf(left, sizeof left, "%.*s", (int)at, piece);
      if (json_object_get(vocab, left) && json_object_get(vocab, piece + at))
        json_array_append_new(pairs, json_pack("[sss]", left, piece + at, piece));
    }
  }
  const size_t n = json_array_size(pairs);
  json_t **sorted = malloc(n * sizeof *sorted);
  assert_non_null(sorted);
  json_array_foreach(pairs, i, merge) sorted[i] = merge;
  qsort_r(sorted, n, sizeof *sorted, compare_made, ranks);
  json_t *merges = json_array();
  for (i = 0; i < n; i++)
    json_array_append_new(
        merges, json_pack("[OO]", json_array_get(sorted[i], 0), json_array_get(sorted[i], 1)));
  json_object_set_new(model, "merges", merges);
  free(sorted);
  json_decref(pairs);
  json_decref(ranks);
}

static void merges_of_a_sentencepiece_file_become_scores(void **state) {
  static const char *const metaspace[] = {NULL, "never"};
  const data *d = *state;
  for (size_t i = 0; i < 2; i++) {
    cs_error error = CS_ERROR_INIT;
    written w;
    uint64_t type;
    bool prefix;
    json_t *root = make_variant(d, "sentences");
    list_all_pairs(root);
    if (metaspace[i]) {
      json_object_set_new(root, "normalizer", json_null());
      json_object_set_new(root, "pre_tokenizer",
                          json_pack("{ss ss ss sb}", "type", "Metaspace", "replacement",
                                    "\xe2\x96\x81", "prepend_scheme", metaspace[i], "split", 0));
    }
    cs_tokenizer *t = read_json(root, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}");
    if (write_back(t, 0, &w, &error) != CS_OK) fail_msg("%s", error.message);
    assert_text(&w, "tokenizer.ggml.model", "llama");
    assert_true(cs_gguf_get_bool(w.gguf, "tokenizer.ggml.add_space_prefix", &prefix));
    assert_int_equal(prefix, i == 0);
    assert_true(cs_gguf_array_u64(w.gguf, "tokenizer.ggml.token_type", 3, &type));
    assert_int_equal(type, 6);
    assert_string_equal(cs_tokenizer_piece(w.tokenizer, 3), "<0x00>");
    assert_same_ids(d, metaspace[i] ? metaspace[i] : "Prepend", t, &w);
    finish(&w);
    cs_tokenizer_destroy(t);
  }
}

/* ---- unigram ---- */

static uint32_t hash_ids(const int32_t *ids, size_t n) {
  uint32_t value = 0x811c9dc5;
  for (size_t i = 0; i < 4 * n; i++)
    value = (value ^ ((uint32_t)ids[i / 4] >> 8 * (i % 4) & 0xff)) * 0x01000193;
  return value;
}

static void a_unigram_file_gives_sentencepiece_ids(void **state) {
  const data *d = *state;
  char path[512], *golden;
  size_t n_golden, index;
  json_t *string;
  cs_error error = CS_ERROR_INIT;
  written w;
  cs_tokenizer *t = read_json(make_variant(d, "unigram"), "{\"eos_token\":\"</s>\"}");
  if (write_back(t, 0, &w, &error) != CS_OK) fail_msg("%s", error.message);
  assert_text(&w, "tokenizer.ggml.model", "t5");
  snprintf(path, sizeof path, "%s/t5.ids", d->folder);
  assert_int_equal(cs_file_read(path, 1 << 20, &golden, &n_golden, NULL), CS_OK);
  assert_int_equal(n_golden, 4 * json_array_size(d->strings));
  json_array_foreach(d->strings, index, string) {
    int32_t *ids;
    size_t n;
    uint32_t expected;
    assert_int_equal(cs_tokenizer_encode(w.tokenizer, json_string_value(string),
                                         json_string_length(string), CS_ENCODE_PLAIN, &ids, &n,
                                         NULL),
                     CS_OK);
    memcpy(&expected, golden + 4 * index, 4);
    if (hash_ids(ids, n) != expected)
      fail_msg("other ids for string %zu: \"%s\"", index, json_string_value(string));
    free(ids);
  }
  free(golden);
  finish(&w);
  cs_tokenizer_destroy(t);
}

/* ---- what is refused ---- */

static void assert_refused(cs_tokenizer *t, const char *reason) {
  cs_error error = CS_ERROR_INIT;
  written w;
  assert_int_equal(write_back(t, 0, &w, &error), CS_UNSUPPORTED);
  if (!strstr(error.message, reason)) fail_msg("\"%s\" does not say \"%s\"", error.message, reason);
  finish(&w);
  cs_tokenizer_destroy(t);
}

static void what_gguf_cannot_say_is_refused_by_name(void **state) {
  static const char *const variants[][2] = {
      {"words", "no name for tokenizer.ggml.pre"},
      {"lower", "no name for tokenizer.ggml.pre"},
      {"prefix", "no name for tokenizer.ggml.pre"},
      {"contiguous", "no name for tokenizer.ggml.pre"},
      {"flags", "no name for tokenizer.ggml.pre"},
      {"sentences", "have no merge, and scores would join them"},
      {"first", "a space in front of every stretch or of none"},
      {"unfused", "no byte_fallback for every byte"},
      {"unigram-words", "pre_tokenizer is not Metaspace"}};
  static const char *const added[][2] = {{"lstrip", "\"<tool>\" has lstrip, rstrip or single_word"},
                                         {"single_word", "\"<tool>\" has lstrip"}};
  const data *d = *state;
  for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
    assert_refused(read_json(make_variant(d, variants[i][0]), NULL), variants[i][1]);
  for (size_t i = 0; i < 2; i++) {
    json_t *root = make_variant(d, "gpt-2");
    json_t *token = json_array_get(json_object_get(root, "added_tokens"), 3);
    json_object_set_new(token, added[i][0], json_true());
    assert_refused(read_json(root, NULL), added[i][1]);
  }
  json_t *root = make_variant(d, "llama3");
  json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_false());
  json_t *steps = json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers");
  json_object_set_new(json_array_get(steps, 0), "behavior", json_string("Removed"));
  assert_refused(read_json(root, NULL), "no name for tokenizer.ggml.pre");
  root = make_variant(d, "gpt-2");
  json_object_set_new(
      root, "post_processor",
      json_loads("{\"type\":\"BertProcessing\",\"cls\":[\"x\",5],\"sep\":[\"y\",6]}", 0, NULL));
  assert_refused(read_json(root, "{\"bos_token\":\"<|im_end|>\"}"), "other tokens than BOS");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_byte_level_tokenizer_finds_the_name_of_its_steps),
      cmocka_unit_test(ignore_merges_may_differ_where_merges_make_every_piece),
      cmocka_unit_test(added_tokens_and_ids_keep_their_kind),
      cmocka_unit_test(merges_of_a_sentencepiece_file_become_scores),
      cmocka_unit_test(a_unigram_file_gives_sentencepiece_ids),
      cmocka_unit_test(what_gguf_cannot_say_is_refused_by_name),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
