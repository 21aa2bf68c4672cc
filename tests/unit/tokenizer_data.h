/* tests/data/tokenizers: vocabularies, their variants, and the strings that all of them encode. */
#ifndef TESTS_TOKENIZER_DATA_H
#define TESTS_TOKENIZER_DATA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct data {
  char folder[400];
  json_t *strings;
  json_t *variants;
} data;

static inline json_t *load(const data *d, const char *name) {
  char path[512];
  json_error_t error;
  snprintf(path, sizeof path, "%s/%s.json", d->folder, name);
  json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
  if (!root) fail_msg("%s: %s", path, error.text);
  return root;
}

static inline int set_up(void **state) {
  static data d;
  const char *source = getenv("CONSORT_TEST_SOURCE");
  if (!source) return -1;
  snprintf(d.folder, sizeof d.folder, "%s/tests/data/tokenizers", source);
  d.strings = load(&d, "strings");
  d.variants = load(&d, "variants");
  *state = &d;
  return 0;
}

static inline int tear_down(void **state) {
  data *d = *state;
  json_decref(d->strings);
  json_decref(d->variants);
  return 0;
}

/* The vocabulary that a variant starts from, with what the variant sets. The caller's. */
static inline json_t *make_root(const data *d, const json_t *variant) {
  json_t *root = load(d, json_string_value(json_object_get(variant, "base")));
  json_object_update(root, json_object_get(variant, "set"));
  json_object_update(json_object_get(root, "model"), json_object_get(variant, "model"));
  return root;
}

#endif
