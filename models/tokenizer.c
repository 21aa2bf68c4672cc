/* The vocabulary of a file: copied once into an arena of NUL-terminated strings, so that pieces can
 * be handed out, with a hash table from spelling to id. Only what text may be made of goes into the
 * table: a literal "<s>" or "<0x0A>" in a text must not turn into the control or byte token of that
 * spelling. */
#include "models/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "models/tokenizer_internal.h"

#define KEY(suffix)     "tokenizer.ggml." suffix
#define MAX_PIECE_BYTES (1u << 20)

/* ---- vocabulary -------------------------------------------------------------------------- */

static cs_status copy_pieces(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  size_t arena_bytes = 0;
  cs_gguf_string text;
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    if (!cs_gguf_array_string(gguf, KEY("tokens"), i, &text))
      return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"" KEY("tokens") "\": no strings");
    if (text.bytes > MAX_PIECE_BYTES)
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "key \"" KEY("tokens") "\": token %u is %zu bytes long", i, text.bytes);
    arena_bytes += text.bytes + 1; /* at most the file's own size */
  }
  t->arena = malloc(arena_bytes);
  t->pieces = calloc(t->n_vocab, sizeof *t->pieces);
  if (!t->arena || !t->pieces) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  char *to = t->arena;
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    cs_gguf_array_string(gguf, KEY("tokens"), i, &text);
    memcpy(to, text.data, text.bytes);
    to[text.bytes] = '\0';
    t->pieces[i] = (cs_piece){.text = to, .bytes = (uint32_t)text.bytes, .type = CS_PIECE_NORMAL};
    if (text.bytes > t->max_piece_bytes) t->max_piece_bytes = text.bytes;
    to += text.bytes + 1;
  }
  return CS_OK;
}

static cs_status read_scores(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    double score;
    if (!cs_gguf_array_f64(gguf, KEY("scores"), i, &score) || isnan(score))
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "key \"" KEY("scores") "\": token %u has no score", i);
    t->pieces[i].score = (float)score;
  }
  return CS_OK;
}

/* The value of "<0x0A>", -1 for any other spelling. */
static int byte_of_spelling(const cs_piece *piece) {
  unsigned value;
  char end;
  if (piece->bytes != 6 || sscanf(piece->text, "<0x%2X%c", &value, &end) != 2 || end != '>')
    return -1;
  return (int)value;
}

/* Of two tokens for one byte the first encodes it; both decode to it. */
static cs_status find_bytes(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  memset(t->byte_ids, 0xff, sizeof t->byte_ids);
  for (uint32_t i = t->n_vocab; i-- > 0;) {
    cs_piece *piece = &t->pieces[i];
    if (piece->type != CS_PIECE_BYTE) continue;
    const int byte = byte_of_spelling(piece);
    if (byte < 0)
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "key \"" KEY("tokens") "\": byte token %u is not spelled <0xXX>", i);
    piece->byte = (uint8_t)byte;
    t->byte_ids[byte] = (int32_t)i;
  }
  return CS_OK;
}

static cs_status read_types(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  const bool typed = cs_gguf_has(gguf, KEY("token_type"));
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    cs_piece *piece = &t->pieces[i];
    uint64_t type;
    if (!typed) {
      if (byte_of_spelling(piece) >= 0) piece->type = CS_PIECE_BYTE;
      continue;
    }
    if (!cs_gguf_array_u64(gguf, KEY("token_type"), i, &type) || type > CS_PIECE_BYTE)
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "key \"" KEY("token_type") "\": token %u has no known type", i);
    piece->type = type == CS_PIECE_UNDEFINED ? CS_PIECE_NORMAL : (uint32_t)type;
  }
  return find_bytes(t, gguf, error);
}

/* ---- spelling to id ---------------------------------------------------------------------- */

static bool is_text(const cs_piece *piece) {
  return piece->bytes > 0 &&
         (piece->type == CS_PIECE_NORMAL || piece->type == CS_PIECE_USER_DEFINED ||
          piece->type == CS_PIECE_UNUSED);
}

/* Where `text` is in the table, or the free place where it would go. */
static uint32_t find_place(const cs_tokenizer *t, const char *text, size_t bytes) {
  uint32_t place = (uint32_t)XXH64(text, bytes, 0) & t->table_mask;
  while (t->table[place] >= 0) {
    const cs_piece *piece = &t->pieces[t->table[place]];
    if (piece->bytes == bytes && memcmp(piece->text, text, bytes) == 0) return place;
    place = (place + 1) & t->table_mask;
  }
  return place;
}

int32_t cs_tokenizer_find(const cs_tokenizer *t, const char *text, size_t bytes) {
  if (bytes > t->max_piece_bytes) return -1;
  return t->table[find_place(t, text, bytes)];
}

static cs_status build_table(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  size_t n_places = 16;
  while (n_places < 2 * (size_t)t->n_vocab)
    n_places *= 2;
  t->table = malloc(n_places * sizeof *t->table);
  if (!t->table) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  memset(t->table, 0xff, n_places * sizeof *t->table);
  t->table_mask = (uint32_t)(n_places - 1);
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (!is_text(piece)) continue;
    t->table[find_place(t, piece->text, piece->bytes)] = (int32_t)i; /* of equals the last */
  }
  return CS_OK;
}

/* ---- special tokens ---------------------------------------------------------------------- */

typedef struct sized_id {
  uint32_t bytes;
  int32_t id;
} sized_id;

static int compare_longest_first(const void *a, const void *b) {
  const sized_id *left = a;
  const sized_id *right = b;
  if (left->bytes != right->bytes) return left->bytes > right->bytes ? -1 : 1;
  return left->id < right->id ? -1 : 1;
}

static cs_status collect_specials(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  sized_id *found = malloc(t->n_vocab * sizeof *found);
  t->specials = malloc(t->n_vocab * sizeof *t->specials);
  if (!found || !t->specials) {
    free(found);
    return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  }
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (piece->bytes == 0) continue;
    if (piece->type != CS_PIECE_CONTROL && piece->type != CS_PIECE_USER_DEFINED) continue;
    found[t->n_specials++] = (sized_id){piece->bytes, (int32_t)i};
    t->special_starts[(uint8_t)piece->text[0]] = true;
  }
  qsort(found, t->n_specials, sizeof *found, compare_longest_first);
  for (uint32_t i = 0; i < t->n_specials; i++)
    t->specials[i] = found[i].id;
  free(found);
  return CS_OK;
}

/* An absent key means SentencePiece's usual number, if that token has the type it would have. */
static cs_status read_id(const cs_tokenizer *t, const cs_gguf *gguf, const char *key,
                         uint32_t usual, uint32_t usual_type, int32_t *id, cs_error *error) {
  uint64_t value = usual;
  *id = -1;
  if (!cs_gguf_has(gguf, key)) {
    if (usual < t->n_vocab && t->pieces[usual].type == usual_type) *id = (int32_t)usual;
    return CS_OK;
  }
  if (!cs_gguf_get_u64(gguf, key, &value) || value >= t->n_vocab)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%s\": not a token of the vocabulary", key);
  *id = (int32_t)value;
  return CS_OK;
}

static cs_status mark_ends(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  static const char *const keys[] = {KEY("eot_token_id"), KEY("eom_token_id")};
  static const char *const spellings[] = {"<|eot_id|>",      "<|eom_id|>",    "<|im_end|>",
                                          "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>",
                                          "<|end|>"};
  if (t->eos >= 0) t->pieces[t->eos].ends = true;
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    int32_t id;
    const cs_status status = read_id(t, gguf, keys[i], UINT32_MAX, 0, &id, error);
    if (status != CS_OK) return status;
    if (id >= 0) t->pieces[id].ends = true;
  }
  for (uint32_t i = 0; i < t->n_specials; i++) {
    cs_piece *piece = &t->pieces[t->specials[i]];
    for (size_t k = 0; k < sizeof spellings / sizeof spellings[0]; k++)
      if (strcmp(piece->text, spellings[k]) == 0) piece->ends = true;
  }
  return CS_OK;
}

static cs_status read_settings(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  const struct {
    const char *key;
    uint32_t usual;
    uint32_t usual_type;
    int32_t *id;
  } ids[] = {
      {KEY("unknown_token_id"), 0, CS_PIECE_UNKNOWN, &t->unknown},
      {KEY("bos_token_id"), 1, CS_PIECE_CONTROL, &t->bos},
      {KEY("eos_token_id"), 2, CS_PIECE_CONTROL, &t->eos},
  };
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    const cs_status status =
        read_id(t, gguf, ids[i].key, ids[i].usual, ids[i].usual_type, ids[i].id, error);
    if (status != CS_OK) return status;
  }
  t->add_bos = true;
  t->add_eos = false;
  t->add_space_prefix = true;
  cs_gguf_get_bool(gguf, KEY("add_bos_token"), &t->add_bos);
  cs_gguf_get_bool(gguf, KEY("add_eos_token"), &t->add_eos);
  cs_gguf_get_bool(gguf, KEY("add_space_prefix"), &t->add_space_prefix);
  return mark_ends(t, gguf, error);
}

/* ---- creating ---------------------------------------------------------------------------- */

static cs_status check_kind(const cs_gguf *gguf, uint64_t *n_vocab, cs_error *error) {
  cs_gguf_string kind;
  if (!cs_gguf_get_string(gguf, KEY("model"), &kind))
    return cs_gguf_fail(gguf, error, CS_NOT_FOUND, "the file has no tokenizer");
  if (kind.bytes != 5 || memcmp(kind.data, "llama", 5) != 0)
    return cs_gguf_fail(gguf, error, CS_UNSUPPORTED,
                        "tokenizer \"%.*s\" is not supported; supported: llama",
                        kind.bytes > 40 ? 40 : (int)kind.bytes, kind.data);
  *n_vocab = cs_gguf_array_length(gguf, KEY("tokens"));
  if (*n_vocab == 0 || *n_vocab > INT32_MAX / 4)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"" KEY("tokens") "\": %llu tokens",
                        (unsigned long long)*n_vocab);
  return CS_OK;
}

cs_status cs_tokenizer_create(const cs_gguf *gguf, cs_tokenizer **out, cs_error *error) {
  *out = NULL;
  uint64_t n_vocab = 0;
  cs_status status = check_kind(gguf, &n_vocab, error);
  if (status != CS_OK) return status;
  cs_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  t->n_vocab = (uint32_t)n_vocab;
  status = copy_pieces(t, gguf, error);
  if (status == CS_OK) status = read_scores(t, gguf, error);
  if (status == CS_OK) status = read_types(t, gguf, error);
  if (status == CS_OK) status = build_table(t, gguf, error);
  if (status == CS_OK) status = collect_specials(t, gguf, error);
  if (status == CS_OK) status = read_settings(t, gguf, error);
  if (status != CS_OK) {
    cs_tokenizer_destroy(t);
    return status;
  }
  *out = t;
  return CS_OK;
}

void cs_tokenizer_destroy(cs_tokenizer *t) {
  if (!t) return;
  free(t->pieces);
  free(t->arena);
  free(t->table);
  free(t->specials);
  free(t);
}

uint32_t cs_tokenizer_n_vocab(const cs_tokenizer *t) {
  return t->n_vocab;
}

int32_t cs_tokenizer_bos(const cs_tokenizer *t) {
  return t->bos;
}

int32_t cs_tokenizer_eos(const cs_tokenizer *t) {
  return t->eos;
}

bool cs_tokenizer_is_end(const cs_tokenizer *t, int32_t id) {
  return id >= 0 && (uint32_t)id < t->n_vocab && t->pieces[id].ends;
}

const char *cs_tokenizer_piece(const cs_tokenizer *t, int32_t id) {
  return id >= 0 && (uint32_t)id < t->n_vocab ? t->pieces[id].text : NULL;
}

size_t cs_tokenizer_max_piece_bytes(const cs_tokenizer *t) {
  return t->max_piece_bytes;
}
