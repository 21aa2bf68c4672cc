/* Ids of 2,200 strings in every script against the hashes that Hugging Face's tokenizers library
 * gave (tests/reference/tokenizers_data.py): read from tokenizer.json and, where GGUF can say the
 * same, from GGUF metadata. And every string comes back as the same bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/text_file.h"
#include "models/tokenizer.h"
#include "tokenizer_data.h"

static cs_tokenizer *from_json(const json_t *root) {
  cs_error error = CS_ERROR_INIT;
  cs_tokenizer *t;
  char *text = json_dumps(root, 0);
  assert_non_null(text);
  if (cs_tokenizer_create_json("t.json", text, strlen(text), NULL, 0, &t, &error) != CS_OK)
    fail_msg("%s", error.message);
  free(text);
  return t;
}

static uint32_t hash_ids(const int32_t *ids, size_t n) {
  uint32_t value = 0x811c9dc5;
  for (size_t i = 0; i < 4 * n; i++)
    value = (value ^ ((uint32_t)ids[i / 4] >> 8 * (i % 4) & 0xff)) * 0x01000193;
  return value;
}

/* How many strings have other ids than the library gave. */
static size_t compare_golden(const data *d, const char *variant, const char *source,
                             uint32_t special, const cs_tokenizer *t) {
  char path[512];
  char *golden;
  size_t n_golden, index, n_wrong = 0;
  json_t *string;
  snprintf(path, sizeof path, "%s/%s.ids", d->folder, variant);
  assert_int_equal(cs_file_read(path, 1 << 20, &golden, &n_golden, NULL), CS_OK);
  assert_int_equal(n_golden, 4 * json_array_size(d->strings));
  assert_true(n_golden >= 4 * 2000);
  json_array_foreach(d->strings, index, string) {
    int32_t *ids;
    size_t n;
    uint32_t expected;
    assert_int_equal(cs_tokenizer_encode(t, json_string_value(string), json_string_length(string),
                                         special, &ids, &n, NULL),
                     CS_OK);
    memcpy(&expected, golden + 4 * index, 4);
    if (hash_ids(ids, n) != expected && n_wrong++ < 5)
      print_message("%s from %s: other ids for string %zu: \"%s\"\n", variant, source, index,
                    json_string_value(string));
    free(ids);
  }
  free(golden);
  if (n_wrong)
    print_message("%s from %s: %zu of %zu strings\n", variant, source, n_wrong, n_golden / 4);
  return n_wrong;
}

static void tokenizer_json_gives_the_ids_of_the_tokenizers_library(void **state) {
  const data *d = *state;
  const char *name;
  json_t *variant;
  size_t n_wrong = 0;
  json_object_foreach(d->variants, name, variant) {
    json_t *root = make_root(d, variant);
    cs_tokenizer *t = from_json(root);
    n_wrong += compare_golden(d, name, "tokenizer.json", CS_ENCODE_SPECIAL, t);
    cs_tokenizer_destroy(t);
    json_decref(root);
  }
  assert_int_equal(n_wrong, 0);
}

/* ---- the same from GGUF ---- */

static void put_json_text(bytes *to, const json_t *text) {
  put_u64(to, json_string_length(text));
  put(to, json_string_value(text), json_string_length(text));
}

static void add_tokens(gguf_builder *g, const json_t *root) {
  const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
  const json_t *added = json_object_get(root, "added_tokens");
  const size_t n = json_object_size(vocab), n_added = json_array_size(added);
  const char **texts = calloc(n, sizeof *texts);
  const char *key;
  json_t *value;
  assert_non_null(texts);
  json_object_foreach((json_t *)vocab, key, value) texts[json_integer_value(value)] = key;
  add_array(g, "tokenizer.ggml.tokens", 8, n + n_added);
  for (size_t i = 0; i < n; i++)
    put_text(&g->keys, texts[i]);
  for (size_t i = 0; i < n_added; i++)
    put_json_text(&g->keys, json_object_get(json_array_get(added, i), "content"));
  add_array(g, "tokenizer.ggml.token_type", 5, n + n_added);
  for (size_t i = 0; i < n; i++)
    put_u32(&g->keys, 1);
  for (size_t i = 0; i < n_added; i++)
    put_u32(&g->keys, json_is_true(json_object_get(json_array_get(added, i), "special")) ? 3 : 4);
  free(texts);
}

static void add_merges(gguf_builder *g, const json_t *root) {
  const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
  add_array(g, "tokenizer.ggml.merges", 8, json_array_size(merges));
  for (size_t i = 0; i < json_array_size(merges); i++) {
    const json_t *merge = json_array_get(merges, i);
    char text[256];
    snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(merge, 0)),
             json_string_value(json_array_get(merge, 1)));
    put_text(&g->keys, text);
  }
}

static size_t check_gguf(const data *d, const char *variant, const json_t *root, const char *pre) {
  gguf_builder g = {0};
  cs_gguf *gguf;
  cs_tokenizer *t;
  cs_error error = CS_ERROR_INIT;
  add_text(&g, "tokenizer.ggml.model", "gpt2");
  add_text(&g, "tokenizer.ggml.pre", pre);
  add_tokens(&g, root);
  add_merges(&g, root);
  add_bool(&g, "tokenizer.ggml.add_bos_token", 0);
  const bytes file = finish_gguf(&g);
  assert_int_equal(cs_gguf_open_memory("g", file.data, file.n, &gguf, NULL), CS_OK);
  if (cs_tokenizer_create(gguf, &t, &error) != CS_OK) fail_msg("%s", error.message);
  const size_t n_wrong = compare_golden(d, variant, pre, CS_ENCODE_SPECIAL, t);
  cs_tokenizer_destroy(t);
  cs_gguf_close(gguf);
  free(file.data);
  return n_wrong;
}

static void gguf_metadata_gives_the_same_ids(void **state) {
  const data *d = *state;
  const char *name;
  json_t *variant, *pre;
  size_t i, n_wrong = 0;
  json_object_foreach(d->variants, name, variant) {
    json_t *root = make_root(d, variant);
    json_array_foreach(json_object_get(variant, "gguf"), i, pre) n_wrong +=
        check_gguf(d, name, root, json_string_value(pre));
    json_decref(root);
  }
  assert_int_equal(n_wrong, 0);
}

static void put_base64(bytes *to, const char *text) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint32_t bits = 0, n_bits = 0;
  for (; *text && *text != '='; text++) {
    bits = bits << 6 | (uint32_t)(strchr(digits, *text) - digits);
    n_bits += 6;
    if (n_bits < 8) continue;
    n_bits -= 8;
    put(to, &(uint8_t){(uint8_t)(bits >> n_bits)}, 1);
  }
}

/* GGUF's "t5" against the sentencepiece library. */
static void unigram_metadata_gives_sentencepiece_ids(void **state) {
  const data *d = *state;
  gguf_builder g = {0};
  bytes map = {0};
  cs_gguf *gguf;
  cs_tokenizer *t;
  cs_error error = CS_ERROR_INIT;
  json_t *root = load(d, "unigram");
  const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
  const size_t n = json_array_size(vocab);
  add_text(&g, "tokenizer.ggml.model", "t5");
  add_array(&g, "tokenizer.ggml.tokens", 8, n);
  for (size_t i = 0; i < n; i++)
    put_json_text(&g.keys, json_array_get(json_array_get(vocab, i), 0));
  add_array(&g, "tokenizer.ggml.scores", 6, n);
  for (size_t i = 0; i < n; i++)
    put(&g.keys, &(float){(float)json_number_value(json_array_get(json_array_get(vocab, i), 1))},
        4);
  add_array(&g, "tokenizer.ggml.token_type", 5, n);
  for (size_t i = 0; i < n; i++)
    put_u32(&g.keys, i == 0 ? 2 : i < 3 ? 3 : 1);
  add_u32(&g, "tokenizer.ggml.unknown_token_id", 0);
  put_base64(&map, json_string_value(json_object_get(json_object_get(root, "normalizer"),
                                                     "precompiled_charsmap")));
  add_array(&g, "tokenizer.ggml.precompiled_charsmap", 0, map.n);
  put(&g.keys, map.data, map.n);
  const bytes file = finish_gguf(&g);
  assert_int_equal(cs_gguf_open_memory("g", file.data, file.n, &gguf, NULL), CS_OK);
  if (cs_tokenizer_create(gguf, &t, &error) != CS_OK) fail_msg("%s", error.message);
  assert_int_equal(compare_golden(d, "t5", "GGUF", CS_ENCODE_PLAIN, t), 0);
  cs_tokenizer_destroy(t);
  cs_gguf_close(gguf);
  free(file.data);
  free(map.data);
  json_decref(root);
}

/* ---- and back ---- */

static void assert_round_trip(const cs_tokenizer *t, const char *text, size_t n_bytes) {
  int32_t *ids;
  size_t n, at = 0;
  cs_detokenizer d;
  assert_int_equal(cs_tokenizer_encode(t, text, n_bytes, false, &ids, &n, NULL), CS_OK);
  const size_t room = cs_tokenizer_max_piece_bytes(t);
  char *out = malloc((n + 1) * room);
  assert_non_null(out);
  cs_detokenizer_init(&d, t, true, false);
  for (size_t i = 0; i < n; i++)
    at += cs_detokenizer_push(&d, ids[i], out + at, room);
  at += cs_detokenizer_flush(&d, out + at, room);
  if (at != n_bytes || memcmp(out, text, n_bytes) != 0)
    fail_msg("\"%s\" came back otherwise", text);
  free(out);
  free(ids);
}

/* Those that do not normalize. */
static void every_string_comes_back_as_the_same_bytes(void **state) {
  static const char *const names[] = {"gpt-2", "llama3", "deepseek-v3", "falcon", "sentences"};
  const data *d = *state;
  for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
    json_t *root = make_root(d, json_object_get(d->variants, names[k]));
    cs_tokenizer *t = from_json(root);
    size_t i;
    json_t *string;
    json_array_foreach(d->strings, i, string) {
      const char *text = json_string_value(string);
      const bool marked = strstr(text, "\xe2\x96\x81") != NULL; /* U+2581 reads as a space */
      if (!(marked && strcmp(names[k], "sentences") == 0))
        assert_round_trip(t, text, json_string_length(string));
    }
    uint32_t x = 7; /* the library takes no invalid UTF-8: here only the way back is compared */
    for (int round = 0; round < 1000; round++) {
      char text[48];
      const size_t n = round % sizeof text;
      for (size_t b = 0; b < n; b++)
        text[b] = (char)((x = x * 1664525u + 1013904223u) >> 24);
      if (!memmem(text, n, "\xe2\x96\x81", 3)) assert_round_trip(t, text, n);
    }
    cs_tokenizer_destroy(t);
    json_decref(root);
  }
}

/* ---- what is refused ---- */

static void assert_refused(const data *d, const char *key, const char *section,
                           const char *reason) {
  cs_error error = CS_ERROR_INIT;
  cs_tokenizer *t;
  json_t *root = load(d, "bytes");
  json_t *value = json_loads(section, JSON_DECODE_ANY, NULL);
  assert_non_null(value);
  if (strncmp(key, "model.", 6) == 0)
    json_object_set_new(json_object_get(root, "model"), key + 6, value);
  else
    json_object_set_new(root, key, value);
  char *text = json_dumps(root, 0);
  assert_int_not_equal(cs_tokenizer_create_json("t.json", text, strlen(text), NULL, 0, &t, &error),
                       CS_OK);
  assert_null(t);
  if (!strstr(error.message, reason) || strncmp(error.message, "t.json: ", 8) != 0)
    fail_msg("\"%s\" does not say \"%s\"", error.message, reason);
  free(text);
  json_decref(root);
}

static void what_is_not_supported_is_refused_by_name(void **state) {
  const data *d = *state;
  assert_refused(d, "normalizer", "{\"type\":\"BertNormalizer\"}", "normalizer \"BertNormalizer\"");
  assert_refused(d, "pre_tokenizer", "{\"type\":\"UnicodeScripts\"}", "\"UnicodeScripts\"");
  assert_refused(d, "post_processor", "{\"type\":\"Other\"}", "post_processor \"Other\"");
  assert_refused(d, "decoder", "{\"type\":\"CTC\"}", "decoder \"CTC\"");
  assert_refused(d, "model.type", "\"WordPiece\"", "model \"WordPiece\"");
  assert_refused(d, "model.end_of_word_suffix", "\"</w>\"", "end_of_word_suffix");
  assert_refused(d, "model.vocab", "{}", "not of the vocabulary");
  assert_refused(d, "model.vocab", "[]", "not what a model");
  assert_refused(d, "model.vocab", "7", "model.vocab");
  assert_refused(d, "model.vocab", "{\"a\":-1}", "out of range");
  assert_refused(d, "model.vocab", "{\"a\":90000000}", "id 90000000 for");
  assert_refused(d, "model.vocab", "{\"a\":0,\"b\":0}", "share id 0");
  assert_refused(d, "model.merges", "[[\"a\",\"\\u0001\"]]", "not of the vocabulary");
  assert_refused(d, "pre_tokenizer",
                 "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}",
                 "not a regular expression");
  assert_refused(d, "normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}",
                 "cut or damaged");
}

static void a_pattern_that_explodes_is_stopped(void **state) {
  const data *d = *state;
  json_t *root = load(d, "bytes");
  json_object_set_new(
      root, "pre_tokenizer",
      json_loads("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa)*[bc]{2}\"},\"behavior\":"
                 "\"Isolated\"}",
                 0, NULL));
  cs_tokenizer *t = from_json(root);
  cs_error error = CS_ERROR_INIT;
  int32_t *ids;
  size_t n;
  char text[36];
  memset(text, 'a', sizeof text);
  text[sizeof text - 1] = 'b';
  assert_int_equal(cs_tokenizer_encode(t, text, sizeof text, false, &ids, &n, &error),
                   CS_OUT_OF_RANGE);
  assert_non_null(strstr(error.message, "too many steps"));
  cs_tokenizer_destroy(t);
  json_decref(root);
}

static void a_megabyte_takes_little_time(void **state) {
  enum { N = 1 << 20 };
  const data *d = *state;
  char *text = malloc(N);
  assert_non_null(text);
  json_t *root = make_root(d, json_object_get(d->variants, "llama3"));
  cs_tokenizer *t = from_json(root);
  for (int kind = 0; kind < 3; kind++) {
    int32_t *ids;
    size_t n;
    for (int i = 0; i < N; i++)
      text[i] = kind == 0 ? ' ' : kind == 1 ? 'a' : "the quick 12 brown.\n"[i % 20];
    assert_int_equal(cs_tokenizer_encode(t, text, N, false, &ids, &n, NULL), CS_OK);
    free(ids);
  }
  cs_tokenizer_destroy(t);
  json_decref(root);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokenizer_json_gives_the_ids_of_the_tokenizers_library),
      cmocka_unit_test(gguf_metadata_gives_the_same_ids),
      cmocka_unit_test(unigram_metadata_gives_sentencepiece_ids),
      cmocka_unit_test(every_string_comes_back_as_the_same_bytes),
      cmocka_unit_test(what_is_not_supported_is_refused_by_name),
      cmocka_unit_test(a_pattern_that_explodes_is_stopped),
      cmocka_unit_test(a_megabyte_takes_little_time),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
