/* The tokenizer against ids worked out by hand, and against the sentencepiece library's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/tokenizer.h"
#include "models/utf8.h"

/* Ids of vocab_pieces. */
enum {
  MARK = VOCAB_FIRST_PIECE,
  A,
  B,
  C,
  AB,
  BC,
  MARK_A,
  ABC,
  MARK_ABC,
  USER,
  E_ACUTE,
  EOT,
  AA,
  BYTE_0 = 3,
  BOS = 1,
  EOS = 2
};

typedef struct fixture {
  bytes file;
  cs_gguf *gguf;
  cs_tokenizer *tokenizer;
} fixture;

static fixture make(gguf_builder *g) {
  fixture f = {.file = finish_gguf(g)};
  assert_int_equal(cs_gguf_open_memory("v", f.file.data, f.file.n, &f.gguf, NULL), CS_OK);
  assert_int_equal(cs_tokenizer_create(f.gguf, &f.tokenizer, NULL), CS_OK);
  return f;
}

static fixture make_usual(void) {
  gguf_builder g = {0};
  add_vocabulary(&g);
  return make(&g);
}

static void finish(fixture *f) {
  cs_tokenizer_destroy(f->tokenizer);
  cs_gguf_close(f->gguf);
  free(f->file.data);
}

static void assert_ids(const cs_tokenizer *t, const char *text, size_t n_bytes, bool special,
                       const int32_t *expected, size_t n_expected) {
  int32_t *ids;
  size_t n;
  assert_int_equal(cs_tokenizer_encode(t, text, n_bytes, special, &ids, &n, NULL), CS_OK);
  if (n != n_expected) fail_msg("\"%s\": %zu ids instead of %zu", text, n, n_expected);
  for (size_t i = 0; i < n; i++)
    if (ids[i] != expected[i])
      fail_msg("\"%s\": id %zu is %d not %d", text, i, ids[i], expected[i]);
  free(ids);
}

#define IDS(t, text, special, ...)                                                                 \
  assert_ids(t, text, sizeof(text) - 1, special, (int32_t[]){__VA_ARGS__},                         \
             sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void the_best_pair_merges_first(void **state) {
  (void)state;
  fixture f = make_usual();
  assert_ids(f.tokenizer, "", 0, false, NULL, 0);
  IDS(f.tokenizer, "a", false, MARK_A);
  IDS(f.tokenizer, "abc", false, MARK_ABC);
  IDS(f.tokenizer, "bc", false, MARK, BC);
  IDS(f.tokenizer, " a", false, MARK, MARK_A);
  IDS(f.tokenizer, "ababc", false, MARK, AB, ABC);
  IDS(f.tokenizer, "abcbc abc", false, MARK_ABC, BC, MARK_ABC);
  IDS(f.tokenizer, "bbc", false, MARK, B, BC);
  IDS(f.tokenizer, "aaa", false, MARK, AA, A); /* of equals the leftmost */
  finish(&f);
}

static void only_well_formed_utf8_is_a_character(void **state) {
  (void)state;
  const struct {
    const char *bytes;
    size_t n;
    int expected;
  } cases[] = {
      {"a", 1, 1},
      {"\x7f\xff", 2, 1},
      {"\xc2\x80", 2, 2},
      {"\xe0\xa0\x80", 3, 3},
      {"\xed\x9f\xbf", 3, 3},
      {"\xf4\x8f\xbf\xbf", 4, 4},
      {"\xc2", 1, CS_UTF8_INCOMPLETE},
      {"\xe0\xa0", 2, CS_UTF8_INCOMPLETE},
      {"\xf0\x90\x80", 3, CS_UTF8_INCOMPLETE},
      {"\x80", 1, CS_UTF8_INVALID},
      {"\xc0\x80", 2, CS_UTF8_INVALID},
      {"\xc1\xbf", 2, CS_UTF8_INVALID},
      {"\xe0\x9f", 2, CS_UTF8_INVALID},
      {"\xed\xa0\x80", 3, CS_UTF8_INVALID},
      {"\xf0\x8f", 2, CS_UTF8_INVALID},
      {"\xf4\x90", 2, CS_UTF8_INVALID},
      {"\xf5\x80", 2, CS_UTF8_INVALID},
      {"\xe2\x82"
       "a",
       3, CS_UTF8_INVALID},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    if (cs_utf8_character((const uint8_t *)cases[i].bytes, cases[i].n) != cases[i].expected)
      fail_msg("case %zu", i);
}

static void what_has_no_token_becomes_bytes(void **state) {
  (void)state;
  fixture f = make_usual();
  IDS(f.tokenizer, "az", false, MARK_A, BYTE_0 + 'z');
  IDS(f.tokenizer, "\xc3\xa9", false, MARK, E_ACUTE);
  IDS(f.tokenizer, "\xc3\xa8", false, MARK, BYTE_0 + 0xc3, BYTE_0 + 0xa8);
  IDS(f.tokenizer,
      "\xc3"
      "ab",
      false, MARK, BYTE_0 + 0xc3, AB);
  IDS(f.tokenizer, "\0", false, MARK, BYTE_0);
  IDS(f.tokenizer, "\n", false, MARK, BYTE_0 + '\n');
  finish(&f);
}

static void special_tokens_are_recognised_only_when_asked_for(void **state) {
  (void)state;
  fixture f = make_usual();
  IDS(f.tokenizer, "a", true, BOS, MARK_A);
  IDS(f.tokenizer, "a</s>a", true, BOS, MARK_A, EOS, MARK_A);
  IDS(f.tokenizer, "</s>", true, BOS, EOS);
  IDS(f.tokenizer, "<s>", false, MARK, BYTE_0 + '<', BYTE_0 + 's', BYTE_0 + '>');
  IDS(f.tokenizer, "a<user>a", false, MARK_A, USER, A);
  IDS(f.tokenizer, "<user>", false, MARK, USER);
  IDS(f.tokenizer, "<0x0A>", true, BOS, MARK, BYTE_0 + '<', BYTE_0 + '0', BYTE_0 + 'x',
      BYTE_0 + '0', BYTE_0 + 'A', BYTE_0 + '>');
  assert_ids(f.tokenizer, "", 0, true, (int32_t[]){BOS}, 1);
  finish(&f);
}

static void the_file_decides_on_bos_eos_and_the_space(void **state) {
  (void)state;
  gguf_builder g = {0};
  add_vocabulary(&g);
  add_bool(&g, "tokenizer.ggml.add_bos_token", 0);
  add_bool(&g, "tokenizer.ggml.add_eos_token", 1);
  add_bool(&g, "tokenizer.ggml.add_space_prefix", 0);
  add_u32(&g, "tokenizer.ggml.eos_token_id", EOT);
  fixture f = make(&g);
  IDS(f.tokenizer, "a a", true, A, MARK_A, EOT);
  assert_int_equal(cs_tokenizer_eos(f.tokenizer), EOT);
  assert_true(cs_tokenizer_is_end(f.tokenizer, EOT));
  assert_false(cs_tokenizer_is_end(f.tokenizer, EOS));
  finish(&f);
}

static void ends_are_known(void **state) {
  (void)state;
  fixture f = make_usual();
  assert_int_equal(cs_tokenizer_bos(f.tokenizer), BOS);
  assert_int_equal(cs_tokenizer_eos(f.tokenizer), EOS);
  assert_true(cs_tokenizer_is_end(f.tokenizer, EOS));
  assert_true(cs_tokenizer_is_end(f.tokenizer, EOT));
  assert_false(cs_tokenizer_is_end(f.tokenizer, BOS));
  assert_false(cs_tokenizer_is_end(f.tokenizer, -1));
  assert_false(cs_tokenizer_is_end(f.tokenizer, VOCAB_SIZE));
  assert_string_equal(cs_tokenizer_piece(f.tokenizer, MARK_A), SPACE "a");
  assert_null(cs_tokenizer_piece(f.tokenizer, VOCAB_SIZE));
  assert_null(cs_tokenizer_piece(f.tokenizer, -1));
  finish(&f);
}

static bool is_valid_utf8(const char *text, size_t n) {
  for (size_t at = 0; at < n;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, n - at);
    if (length <= 0) return false;
    at += (size_t)length;
  }
  return true;
}

/* Decodes ids; where the text is valid UTF-8, so has to be what each single token yields. */
static size_t decode(const cs_tokenizer *t, const int32_t *ids, size_t n, bool valid, char *out,
                     size_t capacity) {
  cs_detokenizer d;
  size_t at = 0;
  cs_detokenizer_init(&d, t, true, false);
  for (size_t i = 0; i < n; i++) {
    const size_t room = cs_tokenizer_max_piece_bytes(t) + 8;
    assert_true(at + room <= capacity);
    const size_t written = cs_detokenizer_push(&d, ids[i], out + at, room);
    if (valid) assert_true(is_valid_utf8(out + at, written));
    at += written;
  }
  return at + cs_detokenizer_flush(&d, out + at, capacity - at);
}

static void assert_round_trip(const cs_tokenizer *t, const char *text, size_t n_bytes) {
  static char out[65536];
  int32_t *ids;
  size_t n;
  const bool valid = is_valid_utf8(text, n_bytes);
  assert_int_equal(cs_tokenizer_encode(t, text, n_bytes, true, &ids, &n, NULL), CS_OK);
  assert_int_equal(decode(t, ids, n, valid, out, sizeof out), n_bytes);
  assert_memory_equal(out, text, n_bytes);
  free(ids);
}

static uint32_t next_random(uint32_t *x) {
  *x = *x * 1664525u + 1013904223u;
  return *x >> 8;
}

static void any_bytes_survive_the_round_trip(void **state) {
  (void)state;
  static const char *const bits[] = {"a",        "b",        "c",    " ",    "  ",
                                     "\n",       "\xc3\xa9", "\xc3", "\xa9", "\xf0\x9f\x8d\x95",
                                     "\xf0\x9f", "<user>",   "z",    "\xff"};
  fixture f = make_usual();
  uint32_t x = 1;
  for (int round = 0; round < 2000; round++) {
    char text[256] = "";
    size_t n = 0;
    for (uint32_t k = next_random(&x) % 24; k > 0; k--) {
      const char *bit = bits[next_random(&x) % (sizeof bits / sizeof bits[0])];
      memcpy(text + n, bit, strlen(bit));
      n += strlen(bit);
    }
    assert_round_trip(f.tokenizer, text, n);
    n = next_random(&x) % sizeof text;
    for (size_t i = 0; i < n; i++)
      text[i] = (char)next_random(&x);
    bool has_mark = false; /* a literal U+2581 reads as a space: the vocabulary cannot tell them */
    for (size_t i = 0; i + 3 <= n; i++)
      has_mark = has_mark || memcmp(text + i, SPACE, 3) == 0;
    if (!has_mark) assert_round_trip(f.tokenizer, text, n);
  }
  finish(&f);
}

static void half_a_character_waits_for_the_rest(void **state) {
  (void)state;
  fixture f = make_usual();
  cs_detokenizer d;
  char out[64];
  static const uint8_t pizza[] = {0xf0, 0x9f, 0x8d, 0x95};
  cs_detokenizer_init(&d, f.tokenizer, false, false);
  for (int i = 0; i < 3; i++)
    assert_int_equal(cs_detokenizer_push(&d, BYTE_0 + pizza[i], out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_push(&d, BYTE_0 + pizza[3], out, sizeof out), 4);
  assert_memory_equal(out, pizza, 4);
  assert_int_equal(cs_detokenizer_push(&d, BYTE_0 + 0xe2, out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_push(&d, A, out, sizeof out), 2);
  assert_memory_equal(out,
                      "\xe2"
                      "a",
                      2);
  assert_int_equal(cs_detokenizer_push(&d, BYTE_0 + 0xe2, out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_flush(&d, out, sizeof out), 1);
  assert_int_equal(cs_detokenizer_flush(&d, out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_push(&d, BOS, out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_push(&d, VOCAB_SIZE, out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_push(&d, -1, out, sizeof out), 0);
  assert_int_equal(cs_detokenizer_push(&d, MARK_ABC, out, sizeof out), 4);
  assert_memory_equal(out, " abc", 4);
  assert_int_equal(cs_detokenizer_push(&d, MARK_ABC, out, 2), 2);
  finish(&f);
}

static void a_broken_character_becomes_one_replacement(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    const char *expected;
  } cases[] = {
      {"\xf0\x9f\x8d", "\xef\xbf\xbd"}, /* unfinished at the end */
      {"\xf0\x9f"
       "a",
       "\xef\xbf\xbd"
       "a"}, /* broken by what follows */
      {"\xe2\x82\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac"},
      {"\x80\xff", "\xef\xbf\xbd\xef\xbf\xbd"}, /* no beginning at all */
      {"\xc3\xa9", "\xc3\xa9"},
  };
  fixture f = make_usual();
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char out[64];
    size_t n = 0;
    cs_detokenizer d;
    cs_detokenizer_init(&d, f.tokenizer, false, true);
    for (const char *byte = cases[i].bytes; *byte; byte++) {
      n += cs_detokenizer_push(&d, BYTE_0 + (uint8_t)*byte, out + n, sizeof out - n);
      assert_true(is_valid_utf8(out, n));
    }
    n += cs_detokenizer_push(&d, EOS, out + n, sizeof out - n); /* ends what was unfinished */
    assert_int_equal(cs_detokenizer_flush(&d, out + n, sizeof out - n), 0);
    assert_int_equal(n, strlen(cases[i].expected));
    assert_memory_equal(out, cases[i].expected, n);
  }
  finish(&f);
}

static void only_the_first_space_is_dropped_at_the_start(void **state) {
  (void)state;
  fixture f = make_usual();
  char out[64];
  assert_int_equal(decode(f.tokenizer, (int32_t[]){BOS, MARK_A, MARK_A}, 3, true, out, sizeof out),
                   3);
  assert_memory_equal(out, "a a", 3);
  assert_int_equal(decode(f.tokenizer, (int32_t[]){A, MARK_A}, 2, true, out, sizeof out), 3);
  assert_memory_equal(out, "a a", 3);
  finish(&f);
}

static void a_long_text_takes_little_time(void **state) {
  (void)state;
  enum { N = 400000 };
  fixture f = make_usual();
  char *text = malloc(N);
  assert_non_null(text);
  for (size_t i = 0; i < N; i++)
    text[i] = "abc"[i % 3];
  int32_t *ids;
  size_t n;
  assert_int_equal(cs_tokenizer_encode(f.tokenizer, text, N, false, &ids, &n, NULL), CS_OK);
  assert_int_equal(n, (N + 2) / 3);
  free(ids);
  memset(text, ' ', N);
  assert_int_equal(cs_tokenizer_encode(f.tokenizer, text, N, false, &ids, &n, NULL), CS_OK);
  assert_int_equal(n, N + 1);
  free(ids);
  assert_int_equal(cs_tokenizer_encode(f.tokenizer, text, SIZE_MAX, false, &ids, &n, NULL),
                   CS_OUT_OF_RANGE);
  free(text);
  finish(&f);
}

static void assert_refused(gguf_builder *g, cs_status status, const char *reason) {
  const bytes file = finish_gguf(g);
  cs_gguf *gguf;
  cs_tokenizer *tokenizer;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_gguf_open_memory("v", file.data, file.n, &gguf, NULL), CS_OK);
  assert_int_equal(cs_tokenizer_create(gguf, &tokenizer, &error), status);
  assert_null(tokenizer);
  if (!strstr(error.message, reason)) fail_msg("\"%s\" lacks \"%s\"", error.message, reason);
  cs_gguf_close(gguf);
  free(file.data);
}

/* One token "x" with a score and a type. */
static void add_one_token(gguf_builder *g, float score, int32_t type) {
  add_text(g, "tokenizer.ggml.model", "llama");
  add_array(g, "tokenizer.ggml.tokens", 8, 1);
  put_text(&g->keys, "x");
  add_array(g, "tokenizer.ggml.scores", 6, 1);
  put(&g->keys, &score, sizeof score);
  add_array(g, "tokenizer.ggml.token_type", 5, 1);
  put(&g->keys, &type, sizeof type);
}

static void broken_vocabularies_are_refused(void **state) {
  (void)state;
  gguf_builder none = {0};
  assert_refused(&none, CS_NOT_FOUND, "no tokenizer");
  gguf_builder other = {0};
  add_text(&other, "tokenizer.ggml.model", "bert");
  assert_refused(&other, CS_UNSUPPORTED, "\"bert\"");
  gguf_builder empty = {0};
  add_text(&empty, "tokenizer.ggml.model", "llama");
  assert_refused(&empty, CS_CORRUPT, "tokens");
  gguf_builder score = {0};
  add_one_token(&score, NAN, 1);
  assert_refused(&score, CS_CORRUPT, "token 0 has no score");
  gguf_builder type = {0};
  add_one_token(&type, 0, 7);
  assert_refused(&type, CS_CORRUPT, "token 0 has no known type");
  gguf_builder byte = {0};
  add_one_token(&byte, 0, 6);
  assert_refused(&byte, CS_CORRUPT, "not spelled <0xXX>");
  gguf_builder bos = {0};
  add_one_token(&bos, 0, 1);
  add_u32(&bos, "tokenizer.ggml.bos_token_id", 1);
  assert_refused(&bos, CS_CORRUPT, "bos_token_id");
}

static void a_vocabulary_without_bytes_says_so(void **state) {
  (void)state;
  gguf_builder g = {0};
  add_one_token(&g, 0, 1);
  add_bool(&g, "tokenizer.ggml.add_space_prefix", 0);
  fixture f = make(&g);
  cs_error error = CS_ERROR_INIT;
  int32_t *ids;
  size_t n;
  IDS(f.tokenizer, "xx", true, 0, 0);
  assert_int_equal(cs_tokenizer_encode(f.tokenizer, "xy", 2, true, &ids, &n, &error), CS_FAILED);
  assert_null(ids);
  assert_non_null(strstr(error.message, "0x79"));
  finish(&f);
}

static size_t read_hex(const char *hex, char *out) {
  size_t n = 0;
  unsigned value;
  for (; sscanf(hex, "%2x", &value) == 1 && *hex != ' '; hex += 2)
    out[n++] = (char)value;
  return n;
}

/* tests/data/stories260K.tokens: "HEX IDS" lines made with the sentencepiece library. */
static void a_real_vocabulary_gives_sentencepiece_ids(void **state) {
  (void)state;
  const char *folder = getenv("CONSORT_TEST_DATA");
  const char *source = getenv("CONSORT_TEST_SOURCE");
  char path[512];
  static char line[16384];
  static char text[8192];
  static int32_t ids[4096];
  cs_gguf *gguf;
  cs_tokenizer *tokenizer;
  if (!folder || !source) {
    print_message("skipped: CONSORT_TEST_DATA is not set\n");
    skip();
  }
  snprintf(path, sizeof path, "%s/models/stories260K.gguf", folder);
  if (cs_gguf_open(path, &gguf, NULL) != CS_OK) {
    print_message("skipped: no %s\n", path);
    skip();
  }
  assert_int_equal(cs_tokenizer_create(gguf, &tokenizer, NULL), CS_OK);
  snprintf(path, sizeof path, "%s/tests/data/stories260K.tokens", source);
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  size_t n_lines = 0;
  for (; fgets(line, sizeof line, file); n_lines++) {
    char *at = strchr(line, ' ');
    assert_non_null(at);
    const size_t n_bytes = read_hex(line, text);
    size_t n = 0;
    for (int used; sscanf(++at, "%d%n", &ids[n], &used) == 1; at += used)
      n++;
    assert_ids(tokenizer, text, n_bytes, false, ids, n);
  }
  assert_true(n_lines >= 50);
  fclose(file);
  cs_tokenizer_destroy(tokenizer);
  cs_gguf_close(gguf);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(only_well_formed_utf8_is_a_character),
      cmocka_unit_test(the_best_pair_merges_first),
      cmocka_unit_test(what_has_no_token_becomes_bytes),
      cmocka_unit_test(special_tokens_are_recognised_only_when_asked_for),
      cmocka_unit_test(the_file_decides_on_bos_eos_and_the_space),
      cmocka_unit_test(ends_are_known),
      cmocka_unit_test(any_bytes_survive_the_round_trip),
      cmocka_unit_test(half_a_character_waits_for_the_rest),
      cmocka_unit_test(a_broken_character_becomes_one_replacement),
      cmocka_unit_test(only_the_first_space_is_dropped_at_the_start),
      cmocka_unit_test(a_long_text_takes_little_time),
      cmocka_unit_test(broken_vocabularies_are_refused),
      cmocka_unit_test(a_vocabulary_without_bytes_says_so),
      cmocka_unit_test(a_real_vocabulary_gives_sentencepiece_ids),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
