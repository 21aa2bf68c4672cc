/* Everything that a template makes lives in an arena with a limit: a loop that builds ever longer
 * strings runs into the limit, not into the machine's memory. Maps are searched from the front:
 * those of messages and tools have a handful of keys. */
#include "models/chat/value.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/utf8.h"

#define CHUNK_BYTES (64u << 10)
#define MAX_DEPTH   64      /* of lists within lists, printed, compared or read */
#define MAX_EQUAL   1000000 /* values that one comparison looks at */

struct cs_chat_chunk {
  struct cs_chat_chunk *next;
  max_align_t data[];
};

/* ---- memory ------------------------------------------------------------------------------ */

void *cs_chat_allocate(cs_chat_arena *arena, size_t bytes) {
  bytes = (bytes + 15) & ~(size_t)15;
  if (bytes > arena->limit || arena->used > arena->limit - bytes) return NULL;
  if (bytes > arena->left) {
    const size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    struct cs_chat_chunk *chunk = malloc(sizeof *chunk + size);
    if (!chunk) return NULL;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->at = (char *)chunk->data;
    arena->left = size;
  }
  void *found = arena->at;
  arena->at += bytes;
  arena->left -= bytes;
  arena->used += bytes;
  return found;
}

void cs_chat_arena_finish(cs_chat_arena *arena) {
  while (arena->chunks) {
    struct cs_chat_chunk *next = arena->chunks->next;
    free(arena->chunks);
    arena->chunks = next;
  }
}

/* A larger array with the old one's items, NULL when there is no memory. */
static void *grow(cs_chat_arena *arena, const void *old, size_t n, size_t *capacity, size_t size) {
  const size_t larger = *capacity ? 2 * *capacity : 4;
  if (larger > SIZE_MAX / 2 / size) return NULL;
  void *items = cs_chat_allocate(arena, larger * size);
  if (!items) return NULL;
  if (n) memcpy(items, old, n * size);
  *capacity = larger;
  return items;
}

/* ---- making ------------------------------------------------------------------------------ */

cs_chat_value cs_chat_text(cs_chat_arena *arena, const char *data, size_t bytes) {
  cs_chat_string *string = cs_chat_allocate(arena, sizeof *string);
  char *copy = cs_chat_allocate(arena, bytes + 1);
  if (!string || !copy) return (cs_chat_value){0};
  if (bytes) memcpy(copy, data, bytes);
  copy[bytes] = '\0';
  *string = (cs_chat_string){copy, bytes};
  return (cs_chat_value){.type = CS_CHAT_STRING, .string = string};
}

cs_chat_value cs_chat_new_list(cs_chat_arena *arena) {
  cs_chat_list *list = cs_chat_allocate(arena, sizeof *list);
  if (!list) return (cs_chat_value){0};
  *list = (cs_chat_list){0};
  return (cs_chat_value){.type = CS_CHAT_LIST, .list = list};
}

cs_chat_value cs_chat_new_map(cs_chat_arena *arena) {
  cs_chat_map *map = cs_chat_allocate(arena, sizeof *map);
  if (!map) return (cs_chat_value){0};
  *map = (cs_chat_map){0};
  return (cs_chat_value){.type = CS_CHAT_MAP, .map = map};
}

bool cs_chat_append(cs_chat_arena *arena, cs_chat_list *list, cs_chat_value item) {
  if (list->n == list->capacity) {
    void *items = grow(arena, list->items, list->n, &list->capacity, sizeof *list->items);
    if (!items) return false;
    list->items = items;
  }
  list->items[list->n++] = item;
  return true;
}

bool cs_chat_put(cs_chat_arena *arena, cs_chat_map *map, const cs_chat_string *key,
                 cs_chat_value value) {
  cs_chat_value *old = (cs_chat_value *)cs_chat_find(map, key->data, key->bytes);
  if (old) {
    *old = value;
    return true;
  }
  if (map->n == map->capacity) {
    void *entries = grow(arena, map->entries, map->n, &map->capacity, sizeof *map->entries);
    if (!entries) return false;
    map->entries = entries;
  }
  map->entries[map->n++] = (cs_chat_entry){key, value};
  return true;
}

static bool fill_map(cs_chat_arena *arena, cs_chat_map *map, const json_t *json, uint32_t depth) {
  void *at = json_object_iter((json_t *)json);
  for (; at; at = json_object_iter_next((json_t *)json, at)) {
    const cs_chat_value key =
        cs_chat_text(arena, json_object_iter_key(at), json_object_iter_key_len(at));
    if (key.type != CS_CHAT_STRING ||
        !cs_chat_put(arena, map, key.string,
                     cs_chat_from_json(arena, json_object_iter_value(at), depth + 1)))
      return false;
  }
  return true;
}

cs_chat_value cs_chat_from_json(cs_chat_arena *arena, const json_t *json, uint32_t depth) {
  cs_chat_value value = {.type = CS_CHAT_NONE};
  if (depth > MAX_DEPTH) return value;
  switch (json ? json_typeof(json) : JSON_NULL) {
  case JSON_TRUE:
  case JSON_FALSE:
    return cs_chat_bool(json_is_true(json));
  case JSON_INTEGER:
    return cs_chat_int(json_integer_value(json));
  case JSON_REAL:
    return cs_chat_float(json_real_value(json));
  case JSON_STRING:
    return cs_chat_text(arena, json_string_value(json), json_string_length(json));
  case JSON_ARRAY:
    value = cs_chat_new_list(arena);
    for (size_t i = 0; value.type == CS_CHAT_LIST && i < json_array_size(json); i++)
      if (!cs_chat_append(arena, value.list,
                          cs_chat_from_json(arena, json_array_get(json, i), depth + 1)))
        return (cs_chat_value){0};
    return value;
  case JSON_OBJECT:
    value = cs_chat_new_map(arena);
    if (value.type == CS_CHAT_MAP && !fill_map(arena, value.map, json, depth))
      return (cs_chat_value){0};
    return value;
  default:
    return value;
  }
}

/* ---- looking ----------------------------------------------------------------------------- */

const cs_chat_value *cs_chat_find(const cs_chat_map *map, const char *key, size_t bytes) {
  for (size_t i = 0; i < map->n; i++)
    if (map->entries[i].key->bytes == bytes && memcmp(map->entries[i].key->data, key, bytes) == 0)
      return &map->entries[i].value;
  return NULL;
}

bool cs_chat_truth(cs_chat_value v) {
  switch (v.type) {
  case CS_CHAT_BOOL:
    return v.boolean;
  case CS_CHAT_INT:
    return v.integer != 0;
  case CS_CHAT_FLOAT:
    return v.number != 0;
  case CS_CHAT_STRING:
    return v.string->bytes > 0;
  case CS_CHAT_LIST:
    return v.list->n > 0;
  case CS_CHAT_MAP:
    return v.map->n > 0;
  case CS_CHAT_FUNCTION:
    return true;
  default:
    return false;
  }
}

static bool is_number(cs_chat_value v) {
  return v.type == CS_CHAT_BOOL || v.type == CS_CHAT_INT || v.type == CS_CHAT_FLOAT;
}

static double to_number(cs_chat_value v) {
  return v.type == CS_CHAT_FLOAT ? v.number
                                 : (double)(v.type == CS_CHAT_BOOL ? v.boolean : v.integer);
}

static bool equal_maps(const cs_chat_map *a, const cs_chat_map *b, uint32_t depth, uint32_t *left);

static bool equal_at(cs_chat_value a, cs_chat_value b, uint32_t depth, uint32_t *left) {
  if (depth > MAX_DEPTH || *left == 0) return false;
  --*left;
  if (is_number(a) && is_number(b)) return to_number(a) == to_number(b);
  if (a.type != b.type) return false;
  switch (a.type) {
  case CS_CHAT_STRING:
    return a.string->bytes == b.string->bytes &&
           memcmp(a.string->data, b.string->data, a.string->bytes) == 0;
  case CS_CHAT_LIST:
    if (a.list->n != b.list->n) return false;
    for (size_t i = 0; i < a.list->n; i++)
      if (!equal_at(a.list->items[i], b.list->items[i], depth + 1, left)) return false;
    return true;
  case CS_CHAT_MAP:
    return equal_maps(a.map, b.map, depth, left);
  case CS_CHAT_FUNCTION:
    return a.function == b.function;
  default:
    return true;
  }
}

static bool equal_maps(const cs_chat_map *a, const cs_chat_map *b, uint32_t depth, uint32_t *left) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++) {
    const cs_chat_string *key = a->entries[i].key;
    const cs_chat_value *other = cs_chat_find(b, key->data, key->bytes);
    if (!other || !equal_at(a->entries[i].value, *other, depth + 1, left)) return false;
  }
  return true;
}

bool cs_chat_equal(cs_chat_value a, cs_chat_value b) {
  uint32_t left = MAX_EQUAL;
  return equal_at(a, b, 0, &left);
}

int cs_chat_compare(cs_chat_value a, cs_chat_value b, bool *ordered) {
  *ordered = true;
  if (is_number(a) && is_number(b)) {
    const double left = to_number(a), right = to_number(b);
    return left < right ? -1 : left > right;
  }
  if (a.type == CS_CHAT_STRING && b.type == CS_CHAT_STRING) {
    const size_t n = a.string->bytes < b.string->bytes ? a.string->bytes : b.string->bytes;
    const int order = memcmp(a.string->data, b.string->data, n);
    if (order) return order < 0 ? -1 : 1;
    return a.string->bytes < b.string->bytes ? -1 : a.string->bytes > b.string->bytes;
  }
  *ordered = false;
  return 0;
}

/* ---- writing ----------------------------------------------------------------------------- */

void cs_chat_write(cs_chat_buffer *out, const char *data, size_t bytes) {
  if (out->failed) return;
  if (bytes > out->capacity - out->bytes) {
    const size_t capacity = 2 * (out->bytes + bytes) + 64;
    char *larger = bytes < SIZE_MAX / 8 ? cs_chat_allocate(out->arena, capacity) : NULL;
    if (!larger) {
      out->failed = true;
      return;
    }
    if (out->bytes) memcpy(larger, out->data, out->bytes);
    out->data = larger;
    out->capacity = capacity;
  }
  if (bytes) memcpy(out->data + out->bytes, data, bytes);
  out->bytes += bytes;
}

void cs_chat_write_text(cs_chat_buffer *out, const char *text) {
  cs_chat_write(out, text, strlen(text));
}

cs_chat_value cs_chat_take(cs_chat_buffer *out) {
  if (out->failed) return (cs_chat_value){0};
  return cs_chat_text(out->arena, out->data, out->bytes);
}

/* The shortest digits that read back as the same number, as Python's repr. */
static void write_float(cs_chat_buffer *out, double number) {
  char text[40];
  if (isnan(number) || isinf(number)) {
    cs_chat_write_text(out, isnan(number) ? "nan" : number > 0 ? "inf" : "-inf");
    return;
  }
  int digits = 1;
  do
    snprintf(text, sizeof text, "%.*e", digits - 1, number);
  while (strtod(text, NULL) != number && ++digits <= 17);
  const int exponent = atoi(strchr(text, 'e') + 1);
  if (exponent >= -4 && exponent < 16) {
    const int after = digits - 1 - exponent;
    snprintf(text, sizeof text, "%.*f", after > 1 ? after : 1, number);
  }
  cs_chat_write_text(out, text);
}

/* A string as Python's repr writes it. */
static void write_quoted(cs_chat_buffer *out, const cs_chat_string *s) {
  const bool single = memchr(s->data, '\'', s->bytes) != NULL;
  const bool plain = single && !memchr(s->data, '"', s->bytes);
  const char quote = plain ? '"' : '\'';
  cs_chat_write(out, &quote, 1);
  for (size_t i = 0; i < s->bytes; i++) {
    const unsigned char c = (unsigned char)s->data[i];
    char escaped[8] = {(char)c};
    if (c == '\n')
      strcpy(escaped, "\\n");
    else if (c == '\r')
      strcpy(escaped, "\\r");
    else if (c == '\t')
      strcpy(escaped, "\\t");
    else if (c == '\\')
      strcpy(escaped, "\\\\");
    else if (c == (unsigned char)quote)
      snprintf(escaped, sizeof escaped, "\\%c", quote);
    else if (c < 0x20 || c == 0x7f)
      snprintf(escaped, sizeof escaped, "\\x%02x", c);
    cs_chat_write(out, escaped, strlen(escaped));
  }
  cs_chat_write(out, &quote, 1);
}

static void print_at(cs_chat_buffer *out, cs_chat_value v, bool quoted, uint32_t depth) {
  char text[32];
  if (out->failed) return;
  if (depth > MAX_DEPTH) {
    cs_chat_write_text(out, "...");
    return;
  }
  switch (v.type) {
  case CS_CHAT_UNDEFINED:
    if (quoted) cs_chat_write_text(out, "Undefined");
    break;
  case CS_CHAT_NONE:
    cs_chat_write_text(out, "None");
    break;
  case CS_CHAT_BOOL:
    cs_chat_write_text(out, v.boolean ? "True" : "False");
    break;
  case CS_CHAT_INT:
    snprintf(text, sizeof text, "%" PRId64, v.integer);
    cs_chat_write_text(out, text);
    break;
  case CS_CHAT_FLOAT:
    write_float(out, v.number);
    break;
  case CS_CHAT_STRING:
    if (quoted)
      write_quoted(out, v.string);
    else
      cs_chat_write(out, v.string->data, v.string->bytes);
    break;
  case CS_CHAT_LIST:
    cs_chat_write_text(out, v.tuple ? "(" : "[");
    for (size_t i = 0; i < v.list->n; i++) {
      if (i) cs_chat_write_text(out, ", ");
      print_at(out, v.list->items[i], true, depth + 1);
    }
    if (v.tuple && v.list->n == 1) cs_chat_write_text(out, ",");
    cs_chat_write_text(out, v.tuple ? ")" : "]");
    break;
  case CS_CHAT_MAP:
    cs_chat_write_text(out, "{");
    for (size_t i = 0; i < v.map->n; i++) {
      if (i) cs_chat_write_text(out, ", ");
      write_quoted(out, v.map->entries[i].key);
      cs_chat_write_text(out, ": ");
      print_at(out, v.map->entries[i].value, true, depth + 1);
    }
    cs_chat_write_text(out, "}");
    break;
  case CS_CHAT_FUNCTION:
    cs_chat_write_text(out, "<function>");
    break;
  }
}

void cs_chat_print(cs_chat_buffer *out, cs_chat_value value) {
  print_at(out, value, false, 0);
}

static void write_json_string(cs_chat_buffer *out, const cs_chat_string *s) {
  cs_chat_write_text(out, "\"");
  for (size_t i = 0; i < s->bytes; i++) {
    const unsigned char c = (unsigned char)s->data[i];
    static const char letters[] = "btn\0fr";
    char escaped[8] = {(char)c};
    if (c == '"' || c == '\\')
      snprintf(escaped, sizeof escaped, "\\%c", c);
    else if (c >= 8 && c <= 13 && c != 11)
      snprintf(escaped, sizeof escaped, "\\%c", letters[c - 8]);
    else if (c < 0x20)
      snprintf(escaped, sizeof escaped, "\\u%04x", c);
    cs_chat_write(out, escaped, c ? strlen(escaped) : 6);
  }
  cs_chat_write_text(out, "\"");
}

static void new_line(cs_chat_buffer *out, int indent, uint32_t depth) {
  if (indent < 0) return;
  cs_chat_write_text(out, "\n");
  for (uint64_t i = 0; i < (uint64_t)indent * depth && !out->failed; i++)
    cs_chat_write_text(out, " ");
}

static int compare_entries(const void *a, const void *b) {
  bool ordered;
  const cs_chat_value left = {.type = CS_CHAT_STRING, .string = ((const cs_chat_entry *)a)->key};
  const cs_chat_value right = {.type = CS_CHAT_STRING, .string = ((const cs_chat_entry *)b)->key};
  return cs_chat_compare(left, right, &ordered);
}

typedef struct json_style {
  int indent;
  bool sort_keys;
} json_style;

static void json_at(cs_chat_buffer *out, cs_chat_value v, const json_style *style, uint32_t depth);

static void json_map(cs_chat_buffer *out, const cs_chat_map *map, const json_style *style,
                     uint32_t depth) {
  cs_chat_entry *entries = cs_chat_allocate(out->arena, (map->n + 1) * sizeof *entries);
  if (!entries) {
    out->failed = true;
    return;
  }
  if (map->n) memcpy(entries, map->entries, map->n * sizeof *entries);
  if (style->sort_keys) qsort(entries, map->n, sizeof *entries, compare_entries);
  cs_chat_write_text(out, "{");
  for (size_t i = 0; i < map->n; i++) {
    if (i) cs_chat_write_text(out, style->indent < 0 ? ", " : ",");
    new_line(out, style->indent, depth + 1);
    write_json_string(out, entries[i].key);
    cs_chat_write_text(out, ": ");
    json_at(out, entries[i].value, style, depth + 1);
  }
  if (map->n) new_line(out, style->indent, depth);
  cs_chat_write_text(out, "}");
}

static void json_at(cs_chat_buffer *out, cs_chat_value v, const json_style *style, uint32_t depth) {
  if (out->failed) return;
  if (depth > MAX_DEPTH) {
    cs_chat_write_text(out, "null");
    return;
  }
  switch (v.type) {
  case CS_CHAT_BOOL:
    cs_chat_write_text(out, v.boolean ? "true" : "false");
    break;
  case CS_CHAT_INT:
  case CS_CHAT_FLOAT:
    print_at(out, v, false, 0);
    break;
  case CS_CHAT_STRING:
    write_json_string(out, v.string);
    break;
  case CS_CHAT_LIST:
    cs_chat_write_text(out, "[");
    for (size_t i = 0; i < v.list->n; i++) {
      if (i) cs_chat_write_text(out, style->indent < 0 ? ", " : ",");
      new_line(out, style->indent, depth + 1);
      json_at(out, v.list->items[i], style, depth + 1);
    }
    if (v.list->n) new_line(out, style->indent, depth);
    cs_chat_write_text(out, "]");
    break;
  case CS_CHAT_MAP:
    json_map(out, v.map, style, depth);
    break;
  default:
    cs_chat_write_text(out, "null");
    break;
  }
}

void cs_chat_print_json(cs_chat_buffer *out, cs_chat_value value, int indent, bool sort_keys) {
  const json_style style = {indent > 32 ? 32 : indent, sort_keys};
  json_at(out, value, &style, 0);
}
