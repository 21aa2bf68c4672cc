/* Normalizers. Unicode's forms and case come from utf8proc; bytes that are no UTF-8 pass unchanged
 * between the runs that it sees. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"
#include "models/utf8.h"

#define MAX_GROWTH_BYTES (1u << 29)

static cs_status no_memory(cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}

/* ---- one run of well-formed characters --------------------------------------------------- */

static bool to_form(uint32_t kind, const char *text, size_t bytes, cs_text *out) {
  static const utf8proc_option_t options[] = {
      [CS_STEP_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
      [CS_STEP_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
      [CS_STEP_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
      [CS_STEP_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
  };
  utf8proc_uint8_t *formed = NULL;
  const utf8proc_ssize_t n =
      utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &formed, options[kind]);
  const bool done = n >= 0 && cs_text_append(out, (const char *)formed, (size_t)n);
  free(formed);
  return done;
}

static bool is_mark(uint32_t c) {
  const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_ME;
}

static bool append_character(uint32_t kind, const char *at, int length, cs_text *out) {
  const uint32_t c = cs_utf8_code_point(at, length);
  char character[4];
  if (kind == CS_STEP_STRIP_ACCENTS) return is_mark(c) || cs_text_append(out, at, (size_t)length);
  if (c == 0x130) return cs_text_append(out, "i\xcc\x87", 3); /* the one that becomes two */
  const uint32_t lower = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
  return cs_text_append(out, character, cs_utf8_write(lower, character));
}

static cs_status normalize_run(const cs_step *step, const char *text, size_t bytes, cs_text *out,
                               cs_error *error) {
  if (step->kind <= CS_STEP_NFKD)
    return to_form(step->kind, text, bytes, out) ? CS_OK : no_memory(error);
  if (step->kind == CS_STEP_CHARSMAP) return cs_charsmap_apply(step, text, bytes, out, error);
  for (size_t at = 0; at < bytes;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, bytes - at);
    if (!append_character(step->kind, text + at, length, out)) return no_memory(error);
    at += (size_t)length;
  }
  return CS_OK;
}

static cs_status replace_run(const cs_step *step, cs_pattern_search *search, const char *text,
                             size_t bytes, cs_text *out, cs_error *error) {
  size_t done = 0;
  for (size_t from = 0; from <= bytes;) {
    bool found;
    size_t begin = 0, end = 0;
    const cs_status status =
        cs_pattern_next(search, text, bytes, from, &found, &begin, &end, error);
    if (status != CS_OK) return status;
    if (!found) break;
    if (!cs_text_append(out, text + done, begin - done) ||
        !cs_text_append(out, step->text, step->text_bytes))
      return no_memory(error);
    done = from = end;
    if (begin == end) from++;
    while (from < bytes && ((uint8_t)text[from] & 0xc0) == 0x80)
      from++;
  }
  return cs_text_append(out, text + done, bytes - done) ? CS_OK : no_memory(error);
}

/* ---- a whole text ------------------------------------------------------------------------ */

static cs_status run_by_run(const cs_step *step, const char *text, size_t bytes, cs_text *out,
                            cs_error *error) {
  cs_pattern_search search = {0};
  cs_status status = CS_OK;
  if (step->kind == CS_STEP_REPLACE) status = cs_pattern_begin(step->pattern, &search, error);
  for (size_t at = 0; at < bytes && status == CS_OK;) {
    const size_t run = cs_utf8_run(text + at, bytes - at);
    if (run == 0) {
      status = cs_text_append(out, text + at++, 1) ? CS_OK : no_memory(error);
      continue;
    }
    status = step->kind == CS_STEP_REPLACE ? replace_run(step, &search, text + at, run, out, error)
                                           : normalize_run(step, text + at, run, out, error);
    at += run;
  }
  cs_pattern_end(&search);
  return status;
}

static bool strip(const cs_step *step, const char *text, size_t bytes, cs_text *out) {
  size_t begin = 0, end = bytes;
  while (step->left && begin < end) {
    const int length = cs_utf8_character((const uint8_t *)text + begin, end - begin);
    if (length <= 0 || !cs_is_space(cs_utf8_code_point(text + begin, length))) break;
    begin += (size_t)length;
  }
  while (step->right && begin < end) {
    size_t at = end - 1;
    while (at > begin && ((uint8_t)text[at] & 0xc0) == 0x80)
      at--;
    const int length = cs_utf8_character((const uint8_t *)text + at, end - at);
    if (length <= 0 || at + (size_t)length != end ||
        !cs_is_space(cs_utf8_code_point(text + at, length)))
      break;
    end = at;
  }
  return cs_text_append(out, text + begin, end - begin);
}

static cs_status normalize_step(const cs_step *step, const char *text, size_t bytes, cs_text *out,
                                cs_error *error) {
  bool done = true;
  switch (step->kind) {
  case CS_STEP_PREPEND:
    done = bytes == 0 ||
           (cs_text_append(out, step->text, step->text_bytes) && cs_text_append(out, text, bytes));
    break;
  case CS_STEP_STRIP:
    done = strip(step, text, bytes, out);
    break;
  case CS_STEP_BYTES:
    for (size_t i = 0; i < bytes && done; i++) {
      char character[2];
      const uint32_t length = cs_byte_character((uint8_t)text[i], character);
      done = cs_text_append(out, character, length);
    }
    break;
  default:
    return run_by_run(step, text, bytes, out, error);
  }
  return done ? CS_OK : no_memory(error);
}

cs_status cs_normalize(const cs_steps *steps, const char *text, size_t bytes, cs_text *out,
                       cs_error *error) {
  cs_text now = {0};
  *out = now;
  cs_status status = cs_text_append(&now, text, bytes) ? CS_OK : no_memory(error);
  for (size_t i = 0; i < steps->n && status == CS_OK; i++) {
    cs_text next = {0};
    status = normalize_step(&steps->list[i], now.data ? now.data : "", now.bytes, &next, error);
    if (status == CS_OK && next.bytes > MAX_GROWTH_BYTES)
      status = cs_error_set(error, CS_OUT_OF_RANGE, "the normalizer makes the text too long");
    free(now.data);
    now = next;
  }
  if (status == CS_OK)
    *out = now;
  else
    free(now.data);
  return status;
}

/* ---- SentencePiece's table of replacements ----------------------------------------------- */

/* A double array as Darts-clone writes it: a unit's low 8 bits and sign are its label, bit 8 tells
 * that a value hangs from it, bits 10 up are the offset, which bit 9 widens by 256. The table
 * begins with the array's size in bytes; the strings follow it. */
typedef struct charsmap {
  const char *units;
  size_t n_units;
  const char *strings;
  size_t strings_bytes;
} charsmap;

static uint32_t unit_at(const charsmap *map, size_t index) {
  uint32_t unit;
  memcpy(&unit, map->units + index * sizeof unit, sizeof unit);
  return unit;
}

static size_t unit_offset(uint32_t unit) {
  return (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
}

static bool open_charsmap(const char *table, size_t bytes, charsmap *map) {
  uint32_t array_bytes;
  if (bytes < sizeof array_bytes) return false;
  memcpy(&array_bytes, table, sizeof array_bytes);
  if (array_bytes % 4 || array_bytes == 0 || array_bytes >= bytes - sizeof array_bytes)
    return false;
  map->units = table + sizeof array_bytes;
  map->n_units = array_bytes / 4;
  map->strings = map->units + array_bytes;
  map->strings_bytes = bytes - sizeof array_bytes - array_bytes;
  return map->strings[map->strings_bytes - 1] == '\0';
}

cs_status cs_charsmap_check(const char *table, size_t bytes, cs_error *error) {
  charsmap map;
  if (bytes == 0 || open_charsmap(table, bytes, &map)) return CS_OK;
  return cs_error_set(error, CS_CORRUPT, "the precompiled character map is cut or damaged");
}

/* The string for the shortest or longest prefix of the text that has one; NULL: none. */
static const char *look_up(const charsmap *map, const char *text, size_t bytes, bool longest,
                           size_t *taken) {
  const char *found = NULL;
  size_t node = unit_offset(unit_at(map, 0));
  for (size_t i = 0; i < bytes; i++) {
    const uint8_t label = (uint8_t)text[i];
    node ^= label;
    if (node >= map->n_units) break;
    const uint32_t unit = unit_at(map, node);
    if ((unit & 0x800000ffu) != label) break;
    node ^= unit_offset(unit);
    if (!(unit >> 8 & 1)) continue;
    if (node >= map->n_units) break;
    const uint32_t value = unit_at(map, node) & 0x7fffffffu;
    if (value >= map->strings_bytes) break;
    found = map->strings + value;
    *taken = i + 1;
    if (!longest) break;
  }
  return found;
}

static bool append_mapped(const charsmap *map, const char *text, size_t bytes, cs_text *out) {
  size_t taken;
  const char *mapped = look_up(map, text, bytes, false, &taken);
  return mapped ? cs_text_append(out, mapped, strlen(mapped)) : cs_text_append(out, text, bytes);
}

/* As the tokenizers library does it: a short grapheme cluster as a whole by the string of its
 * shortest prefix, else character by character. */
static bool map_cluster(const charsmap *map, const char *text, size_t bytes, cs_text *out) {
  size_t taken;
  if (bytes < 6) {
    const char *mapped = look_up(map, text, bytes, false, &taken);
    if (mapped) return cs_text_append(out, mapped, strlen(mapped));
  }
  for (size_t at = 0; at < bytes;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, bytes - at);
    if (!append_mapped(map, text + at, (size_t)length, out)) return false;
    at += (size_t)length;
  }
  return true;
}

static bool map_clusters(const charsmap *map, const char *text, size_t bytes, cs_text *out) {
  utf8proc_int32_t state = 0;
  size_t begin = 0;
  uint32_t previous = 0;
  for (size_t at = 0; at < bytes;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, bytes - at);
    const uint32_t c = cs_utf8_code_point(text + at, length);
    if (at > begin &&
        utf8proc_grapheme_break_stateful((utf8proc_int32_t)previous, (utf8proc_int32_t)c, &state)) {
      if (!map_cluster(map, text + begin, at - begin, out)) return false;
      begin = at;
    }
    previous = c;
    at += (size_t)length;
  }
  return map_cluster(map, text + begin, bytes - begin, out);
}

/* As SentencePiece does it: the longest prefix that has a string, again and again. */
static bool map_longest(const charsmap *map, const char *text, size_t bytes, cs_text *out) {
  for (size_t at = 0; at < bytes;) {
    size_t taken;
    const char *mapped = look_up(map, text + at, bytes - at, true, &taken);
    if (mapped) {
      if (!cs_text_append(out, mapped, strlen(mapped))) return false;
    } else {
      taken = (size_t)cs_utf8_character((const uint8_t *)text + at, bytes - at);
      if (!cs_text_append(out, text + at, taken)) return false;
    }
    at += taken;
  }
  return true;
}

cs_status cs_charsmap_apply(const cs_step *step, const char *text, size_t bytes, cs_text *out,
                            cs_error *error) {
  charsmap map;
  bool done;
  if (!open_charsmap(step->text, step->text_bytes, &map))
    done = cs_text_append(out, text, bytes); /* an empty table changes nothing */
  else
    done = step->each_cluster ? map_clusters(&map, text, bytes, out)
                              : map_longest(&map, text, bytes, out);
  return done ? CS_OK : no_memory(error);
}
