/* tokenizer.json: the components around the model. Each is an object with a "type"; one that is not
 * known here is refused by name, for a tokenizer that leaves a step out gives wrong ids in silence.
 */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_json.h"

#define MAX_DEPTH 8
#define MAX_STEPS 64

/* Rust's \w and the ASCII symbols that the library counts as punctuation. */
#define RUST_WORD   "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"
#define PUNCTUATION "[\\p{P}$+<=>^`|~]"

static bool is_type(const json_t *section, const char *type) {
  return strcmp(cs_json_text(section, "type"), type) == 0;
}

static cs_status unknown(const cs_json_reader *r, const char *what, const json_t *section) {
  return cs_json_fail(r, CS_UNSUPPORTED, "%s \"%.40s\" is not supported", what,
                      cs_json_text(section, "type"));
}

static cs_status no_memory(const cs_json_reader *r) {
  return cs_json_fail(r, CS_OUT_OF_MEMORY, "out of memory");
}

typedef cs_status (*section_reader)(cs_json_reader *r, const json_t *section);

/* A "Sequence" of such sections. */
static cs_status read_sequence(cs_json_reader *r, const json_t *section, const char *key,
                               section_reader each) {
  size_t i;
  json_t *part;
  cs_status status = CS_OK;
  if (r->depth >= MAX_DEPTH)
    return cs_json_fail(r, CS_CORRUPT, "%s: sequences are nested too deep", key);
  r->depth++;
  json_array_foreach(json_object_get(section, key), i, part) {
    status = each(r, part);
    if (status != CS_OK) break;
  }
  r->depth--;
  return status;
}

static cs_status add(cs_json_reader *r, cs_steps *steps, const cs_step *step) {
  if (steps->n >= MAX_STEPS) {
    cs_pattern_destroy(step->pattern);
    free(step->text);
    return cs_json_fail(r, CS_CORRUPT, "more than %d steps", MAX_STEPS);
  }
  return cs_steps_add(steps, step, r->error) == CS_OK ? CS_OK : no_memory(r);
}

/* A step that is nothing but its kind. */
static cs_status add_plain(cs_json_reader *r, cs_steps *steps, uint32_t kind) {
  const cs_step step = {.kind = kind};
  return add(r, steps, &step);
}

static cs_status copy_text(const cs_json_reader *r, const json_t *section, const char *key,
                           cs_step *step) {
  const json_t *value = json_object_get(section, key);
  if (!json_is_string(value)) return cs_json_fail(r, CS_CORRUPT, "\"%s\" is no string", key);
  step->text_bytes = json_string_length(value);
  step->text = malloc(step->text_bytes + 1);
  if (!step->text) return no_memory(r);
  memcpy(step->text, json_string_value(value), step->text_bytes + 1);
  return CS_OK;
}

/* {"Regex": "..."} or {"String": "..."}. */
static cs_status read_pattern(const cs_json_reader *r, const json_t *section, cs_pattern **out) {
  const json_t *pattern = json_object_get(section, "pattern");
  const json_t *regex = json_object_get(pattern, "Regex");
  const json_t *text = json_object_get(pattern, "String");
  cs_error why = CS_ERROR_INIT;
  cs_status status = CS_CORRUPT;
  if (json_is_string(regex))
    status = cs_pattern_create(json_string_value(regex), json_string_length(regex), out, &why);
  else if (json_is_string(text))
    status =
        cs_pattern_create_literal(json_string_value(text), json_string_length(text), out, &why);
  else
    return cs_json_fail(r, CS_CORRUPT, "\"pattern\" has neither \"Regex\" nor \"String\"");
  return status == CS_OK ? CS_OK
                         : cs_json_fail_with(r, status, cs_json_text(section, "type"), &why);
}

/* ---- normalizers ------------------------------------------------------------------------- */

static int base64_digit(char c) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *at = c ? strchr(digits, c) : NULL;
  return at ? (int)(at - digits) : -1;
}

/* Decodes in place; returns the length, SIZE_MAX for what is no base64. */
static size_t decode_base64(char *text, size_t bytes) {
  size_t n = 0;
  uint32_t bits = 0, n_bits = 0;
  while (bytes > 0 && text[bytes - 1] == '=')
    bytes--;
  for (size_t i = 0; i < bytes; i++) {
    const int digit = base64_digit(text[i]);
    if (digit < 0) return SIZE_MAX;
    bits = (bits << 6 | (uint32_t)digit) & 0xffff;
    n_bits += 6;
    if (n_bits < 8) continue;
    n_bits -= 8;
    text[n++] = (char)(bits >> n_bits & 0xff);
  }
  return n;
}

static cs_status read_precompiled(cs_json_reader *r, const json_t *section) {
  cs_step step = {.kind = CS_STEP_CHARSMAP, .each_cluster = true};
  if (json_is_null(json_object_get(section, "precompiled_charsmap"))) return CS_OK;
  cs_status status = copy_text(r, section, "precompiled_charsmap", &step);
  if (status != CS_OK) return status;
  cs_error why = CS_ERROR_INIT;
  step.text_bytes = decode_base64(step.text, step.text_bytes);
  status = step.text_bytes == SIZE_MAX
               ? cs_error_set(&why, CS_CORRUPT, "precompiled_charsmap is not base64")
               : cs_charsmap_check(step.text, step.text_bytes, &why);
  if (status == CS_OK) return add(r, &r->tokenizer->normalizers, &step);
  free(step.text);
  return cs_json_fail_with(r, status, "normalizer Precompiled", &why);
}

static cs_status read_replace(cs_json_reader *r, const json_t *section) {
  cs_step step = {.kind = CS_STEP_REPLACE};
  cs_status status = copy_text(r, section, "content", &step);
  if (status == CS_OK) status = read_pattern(r, section, &step.pattern);
  if (status == CS_OK) return add(r, &r->tokenizer->normalizers, &step);
  free(step.text);
  return status;
}

cs_status cs_json_normalizer(cs_json_reader *r, const json_t *section) {
  static const struct {
    const char *type;
    uint32_t kind;
  } plain[] = {{"NFC", CS_STEP_NFC},
               {"NFD", CS_STEP_NFD},
               {"NFKC", CS_STEP_NFKC},
               {"NFKD", CS_STEP_NFKD},
               {"Lowercase", CS_STEP_LOWERCASE},
               {"StripAccents", CS_STEP_STRIP_ACCENTS},
               {"ByteLevel", CS_STEP_BYTES}};
  cs_steps *steps = &r->tokenizer->normalizers;
  if (!section || json_is_null(section)) return CS_OK;
  for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
    if (is_type(section, plain[i].type)) return add_plain(r, steps, plain[i].kind);
  if (is_type(section, "Sequence"))
    return read_sequence(r, section, "normalizers", cs_json_normalizer);
  if (is_type(section, "Precompiled")) return read_precompiled(r, section);
  if (is_type(section, "Replace")) return read_replace(r, section);
  if (is_type(section, "Strip")) {
    const cs_step step = {.kind = CS_STEP_STRIP,
                          .left = cs_json_bool(section, "strip_left", true),
                          .right = cs_json_bool(section, "strip_right", true)};
    return add(r, steps, &step);
  }
  if (is_type(section, "Prepend")) {
    cs_step step = {.kind = CS_STEP_PREPEND};
    const cs_status status = copy_text(r, section, "prepend", &step);
    return status == CS_OK ? add(r, steps, &step) : status;
  }
  return unknown(r, "normalizer", section);
}

/* ---- pre-tokenizers ---------------------------------------------------------------------- */

static cs_status add_split(cs_json_reader *r, const char *expression, uint32_t behaviour,
                           bool invert) {
  cs_step step = {.kind = CS_STEP_SPLIT, .behaviour = behaviour, .invert = invert};
  if (cs_pattern_create(expression, strlen(expression), &step.pattern, NULL) != CS_OK)
    return no_memory(r);
  return add(r, &r->tokenizer->pre_tokenizers, &step);
}

static bool read_behaviour(const json_t *section, uint32_t *behaviour) {
  static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                      "Contiguous"};
  for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    *behaviour = i; /* CS_SPLIT_* */
    if (strcmp(cs_json_text(section, "behavior"), names[i]) == 0) return true;
  }
  return false;
}

static cs_status read_split(cs_json_reader *r, const json_t *section) {
  cs_step step = {.kind = CS_STEP_SPLIT, .invert = cs_json_bool(section, "invert", false)};
  if (!read_behaviour(section, &step.behaviour))
    return cs_json_fail(r, CS_UNSUPPORTED, "pre_tokenizer Split: behavior \"%.40s\" is not known",
                        cs_json_text(section, "behavior"));
  const cs_status status = read_pattern(r, section, &step.pattern);
  return status == CS_OK ? add(r, &r->tokenizer->pre_tokenizers, &step) : status;
}

static cs_status read_byte_level(cs_json_reader *r, const json_t *section) {
  cs_steps *steps = &r->tokenizer->pre_tokenizers;
  cs_status status = CS_OK;
  if (cs_json_bool(section, "add_prefix_space", true))
    status = add_plain(r, steps, CS_STEP_SPACE_PREFIX);
  if (status == CS_OK && cs_json_bool(section, "use_regex", true))
    status = add_split(r, cs_gpt2_pattern, CS_SPLIT_ISOLATED, false);
  return status == CS_OK ? add_plain(r, steps, CS_STEP_BYTES) : status;
}

/* "prepend_scheme", or "add_prefix_space" in older files. */
static uint32_t read_prefix(const json_t *section) {
  const char *scheme = cs_json_text(section, "prepend_scheme");
  if (strcmp(scheme, "never") == 0) return CS_PREFIX_NEVER;
  if (strcmp(scheme, "first") == 0) return CS_PREFIX_FIRST;
  if (!scheme[0] && !cs_json_bool(section, "add_prefix_space", true)) return CS_PREFIX_NEVER;
  return CS_PREFIX_ALWAYS;
}

static cs_status read_metaspace(cs_json_reader *r, const json_t *section) {
  cs_step step = {.kind = CS_STEP_METASPACE,
                  .prefix = read_prefix(section),
                  .cuts = cs_json_bool(section, "split", true)};
  const cs_status status = copy_text(r, section, "replacement", &step);
  if (status != CS_OK) return status;
  if (step.text_bytes > 0) return add(r, &r->tokenizer->pre_tokenizers, &step);
  free(step.text);
  return cs_json_fail(r, CS_CORRUPT, "pre_tokenizer Metaspace: empty \"replacement\"");
}

static cs_status read_punctuation(cs_json_reader *r, const json_t *section) {
  uint32_t behaviour = CS_SPLIT_ISOLATED;
  if (cs_json_text(section, "behavior")[0] && !read_behaviour(section, &behaviour))
    return cs_json_fail(r, CS_UNSUPPORTED,
                        "pre_tokenizer Punctuation: behavior \"%.40s\" is not known",
                        cs_json_text(section, "behavior"));
  return add_split(r, PUNCTUATION, behaviour, false);
}

cs_status cs_json_pre_tokenizer(cs_json_reader *r, const json_t *section) {
  if (!section || json_is_null(section)) return CS_OK;
  if (is_type(section, "Sequence"))
    return read_sequence(r, section, "pretokenizers", cs_json_pre_tokenizer);
  if (is_type(section, "ByteLevel")) return read_byte_level(r, section);
  if (is_type(section, "Split")) return read_split(r, section);
  if (is_type(section, "Metaspace")) return read_metaspace(r, section);
  if (is_type(section, "Punctuation")) return read_punctuation(r, section);
  if (is_type(section, "Digits"))
    return cs_json_bool(section, "individual_digits", false)
               ? add_split(r, "\\p{N}", CS_SPLIT_ISOLATED, false)
               : add_split(r, "\\p{N}", CS_SPLIT_CONTIGUOUS, false);
  if (is_type(section, "Whitespace"))
    return add_split(r, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", CS_SPLIT_REMOVED, true);
  if (is_type(section, "WhitespaceSplit")) return add_split(r, "\\s", CS_SPLIT_REMOVED, false);
  return unknown(r, "pre_tokenizer", section);
}

/* ---- post-processors --------------------------------------------------------------------- */

static cs_status append_id(cs_json_reader *r, int32_t **ids, size_t *n, json_int_t id) {
  if (id < 0 || id >= r->tokenizer->n_vocab)
    return cs_json_fail(r, CS_CORRUPT, "post_processor: id %lld is not of the vocabulary",
                        (long long)id);
  int32_t *longer = realloc(*ids, (*n + 1) * sizeof *longer);
  if (!longer) return no_memory(r);
  longer[(*n)++] = (int32_t)id;
  *ids = longer;
  return CS_OK;
}

/* What "single" puts before and after the text. */
static cs_status read_template(cs_json_reader *r, const json_t *section) {
  cs_tokenizer *t = r->tokenizer;
  bool after = false;
  size_t i, k;
  json_t *part, *id;
  json_array_foreach(json_object_get(section, "single"), i, part) {
    const json_t *special = json_object_get(part, "SpecialToken");
    if (!special) {
      if (after) return cs_json_fail(r, CS_UNSUPPORTED, "post_processor: the text comes twice");
      after = true;
      continue;
    }
    const json_t *entry =
        json_object_get(json_object_get(section, "special_tokens"), cs_json_text(special, "id"));
    if (!entry)
      return cs_json_fail(r, CS_CORRUPT, "post_processor: special token \"%.40s\" is not defined",
                          cs_json_text(special, "id"));
    json_array_foreach(json_object_get(entry, "ids"), k, id) {
      const cs_status status =
          append_id(r, after ? &t->suffix : &t->prefix, after ? &t->n_suffix : &t->n_prefix,
                    json_is_integer(id) ? json_integer_value(id) : -1);
      if (status != CS_OK) return status;
    }
  }
  return CS_OK;
}

/* ["token", id] */
static json_int_t id_of_pair(const json_t *section, const char *key) {
  const json_t *id = json_array_get(json_object_get(section, key), 1);
  return json_is_integer(id) ? json_integer_value(id) : -1;
}

cs_status cs_json_post_processor(cs_json_reader *r, const json_t *section) {
  cs_tokenizer *t = r->tokenizer;
  if (!section || json_is_null(section)) return CS_OK;
  if (is_type(section, "ByteLevel")) return CS_OK; /* it changes offsets only */
  if (is_type(section, "Sequence"))
    return read_sequence(r, section, "processors", cs_json_post_processor);
  if (is_type(section, "TemplateProcessing")) return read_template(r, section);
  if (is_type(section, "RobertaProcessing") || is_type(section, "BertProcessing")) {
    const cs_status status = append_id(r, &t->prefix, &t->n_prefix, id_of_pair(section, "cls"));
    return status == CS_OK ? append_id(r, &t->suffix, &t->n_suffix, id_of_pair(section, "sep"))
                           : status;
  }
  return unknown(r, "post_processor", section);
}

/* ---- decoders ---------------------------------------------------------------------------- */

static cs_status add_replacement(cs_json_reader *r, const char *from, const char *to) {
  cs_tokenizer *t = r->tokenizer;
  cs_replacement *entry = &t->replacements[t->n_replacements];
  if (t->n_replacements == CS_MAX_REPLACEMENTS || !from[0] || strlen(from) >= sizeof entry->from ||
      strlen(to) >= sizeof entry->to)
    return cs_json_fail(r, CS_UNSUPPORTED, "decoder: replacing \"%.20s\" is not supported", from);
  strcpy(entry->from, from);
  strcpy(entry->to, to);
  t->n_replacements++;
  return CS_OK;
}

static cs_status read_strip(cs_json_reader *r, const json_t *section) {
  const json_int_t start = json_integer_value(json_object_get(section, "start"));
  if (strcmp(cs_json_text(section, "content"), " ") != 0 || start < 0 || start > 16 ||
      json_integer_value(json_object_get(section, "stop")) != 0)
    return cs_json_fail(r, CS_UNSUPPORTED, "decoder Strip: only spaces at the start are supported");
  r->tokenizer->n_stripped = (uint32_t)start;
  return CS_OK;
}

cs_status cs_json_decoder(cs_json_reader *r, const json_t *section) {
  if (!section || json_is_null(section)) return CS_OK;
  if (is_type(section, "Sequence")) return read_sequence(r, section, "decoders", cs_json_decoder);
  if (is_type(section, "ByteFallback") || is_type(section, "Fuse")) return CS_OK;
  if (is_type(section, "ByteLevel")) {
    r->tokenizer->byte_level = true;
    return CS_OK;
  }
  if (is_type(section, "Strip")) return read_strip(r, section);
  if (is_type(section, "Replace"))
    return add_replacement(r, cs_json_text(json_object_get(section, "pattern"), "String"),
                           cs_json_text(section, "content"));
  if (is_type(section, "Metaspace")) {
    r->tokenizer->n_stripped = read_prefix(section) != CS_PREFIX_NEVER;
    return add_replacement(r, cs_json_text(section, "replacement"), " ");
  }
  return unknown(r, "decoder", section);
}
