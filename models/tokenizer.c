/* The vocabulary of a GGUF file: copied once into an arena of NUL-terminated strings, so that
 * pieces can be handed out. */
#include "models/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"

#define KEY(suffix)     "tokenizer.ggml." suffix
#define MAX_PIECE_BYTES (1u << 20)
#define SPACE_MARK      "\xe2\x96\x81"

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
    t->pieces[i].score = score;
  }
  return CS_OK;
}

/* Of two tokens for one byte the first encodes it; both decode to it. */
static cs_status find_bytes(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  memset(t->byte_ids, 0xff, sizeof t->byte_ids);
  for (uint32_t i = t->n_vocab; i-- > 0;) {
    cs_piece *piece = &t->pieces[i];
    if (piece->type != CS_PIECE_BYTE) continue;
    const int byte = cs_tokenizer_byte_of_spelling(piece);
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
      if (t->kind == CS_TOKENIZER_SCORES && cs_tokenizer_byte_of_spelling(piece) >= 0)
        piece->type = CS_PIECE_BYTE;
      continue;
    }
    if (!cs_gguf_array_u64(gguf, KEY("token_type"), i, &type) || type > CS_PIECE_BYTE)
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "key \"" KEY("token_type") "\": token %u has no known type", i);
    piece->type = type == CS_PIECE_UNDEFINED ? CS_PIECE_NORMAL : (uint32_t)type;
  }
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    cs_piece *piece = &t->pieces[i];
    piece->is_text = piece->type == CS_PIECE_NORMAL || piece->type == CS_PIECE_USER_DEFINED ||
                     piece->type == CS_PIECE_UNUSED;
  }
  return find_bytes(t, gguf, error);
}

/* ---- ids and settings -------------------------------------------------------------------- */

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
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    int32_t id;
    const cs_status status = read_id(t, gguf, keys[i], UINT32_MAX, 0, &id, error);
    if (status != CS_OK) return status;
    if (id >= 0) t->pieces[id].ends = true;
  }
  cs_tokenizer_mark_ends(t);
  return CS_OK;
}

/* What a kind of file means when it does not say. */
typedef struct kind {
  const char *name;
  uint32_t kind; /* CS_TOKENIZER_* */
  uint32_t unknown;
  uint32_t bos;
  uint32_t eos;
  bool add_bos;
  bool add_eos;
  bool add_space_prefix;
} kind;

#define NO_ID UINT32_MAX

static const kind kinds[] = {
    {"llama", CS_TOKENIZER_SCORES, 0, 1, 2, true, false, true},
    {"gpt2", CS_TOKENIZER_MERGES, NO_ID, 11, 11, false, false, false},
    {"t5", CS_TOKENIZER_UNIGRAM, 2, NO_ID, 1, false, true, true},
};

static bool set_affix(int32_t **ids, size_t *n, bool wanted, int32_t id) {
  if (!wanted || id < 0) return true;
  *ids = malloc(sizeof **ids);
  if (!*ids) return false;
  **ids = id;
  *n = 1;
  return true;
}

static cs_status read_settings(cs_tokenizer *t, const cs_gguf *gguf, const kind *usual,
                               bool add_bos, cs_error *error) {
  const struct {
    const char *key;
    uint32_t usual;
    uint32_t usual_type;
    int32_t *id;
  } ids[] = {
      {KEY("unknown_token_id"), usual->unknown, CS_PIECE_UNKNOWN, &t->unknown},
      {KEY("bos_token_id"), usual->bos, CS_PIECE_CONTROL, &t->bos},
      {KEY("eos_token_id"), usual->eos, CS_PIECE_CONTROL, &t->eos},
  };
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    const cs_status status =
        read_id(t, gguf, ids[i].key, ids[i].usual, ids[i].usual_type, ids[i].id, error);
    if (status != CS_OK) return status;
  }
  bool add_eos = usual->add_eos;
  cs_gguf_get_bool(gguf, KEY("add_bos_token"), &add_bos);
  cs_gguf_get_bool(gguf, KEY("add_eos_token"), &add_eos);
  if (!set_affix(&t->prefix, &t->n_prefix, add_bos, t->bos) ||
      !set_affix(&t->suffix, &t->n_suffix, add_eos, t->eos))
    return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  return mark_ends(t, gguf, error);
}

/* ---- byte-level BPE ---------------------------------------------------------------------- */

/* "left right" as ids: false when a side or the whole is no token. */
static bool read_merge(const cs_tokenizer *t, cs_gguf_string text, uint32_t rank, cs_merge *merge) {
  if (text.bytes < 3) return false;
  const char *space = memchr(text.data + 1, ' ', text.bytes - 1);
  if (!space) return false;
  const size_t left = (size_t)(space - text.data), right = text.bytes - left - 1;
  char joined[512];
  if (left + right > sizeof joined) return false;
  memcpy(joined, text.data, left);
  memcpy(joined + left, space + 1, right);
  *merge = (cs_merge){cs_tokenizer_find(t, text.data, left), cs_tokenizer_find(t, space + 1, right),
                      cs_tokenizer_find(t, joined, left + right), rank};
  return merge->left >= 0 && merge->right >= 0 && merge->merged >= 0;
}

static cs_status read_merges(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  const uint64_t n = cs_gguf_array_length(gguf, KEY("merges"));
  if (n > INT32_MAX / 4)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"" KEY("merges") "\": %llu merges",
                        (unsigned long long)n);
  cs_merge *merges = malloc(((size_t)n + 1) * sizeof *merges);
  if (!merges) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  size_t n_merges = 0;
  cs_gguf_string text;
  cs_status status = CS_OK;
  for (uint64_t i = 0; i < n && status == CS_OK; i++) {
    if (!cs_gguf_array_string(gguf, KEY("merges"), i, &text))
      status = cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"" KEY("merges") "\": no strings");
    else if (read_merge(t, text, (uint32_t)i, &merges[n_merges]))
      n_merges++;
  }
  if (status == CS_OK && !cs_tokenizer_index_merges(t, merges, n_merges))
    status = cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  free(merges);
  return status;
}

static cs_status read_byte_level(cs_tokenizer *t, const cs_gguf *gguf, bool *add_bos,
                                 cs_error *error) {
  cs_gguf_string name = {"default", 7};
  cs_gguf_get_string(gguf, KEY("pre"), &name);
  t->byte_level = true;
  cs_error why = CS_ERROR_INIT;
  const cs_status status = cs_pre_tokenizer_named(
      name.data, name.bytes, &t->normalizers, &t->pre_tokenizers, &t->ignore_merges, add_bos, &why);
  if (status != CS_OK)
    return cs_gguf_fail(gguf, error, status, "key \"" KEY("pre") "\": %s", why.message);
  return read_merges(t, gguf, error);
}

/* ---- unigram ----------------------------------------------------------------------------- */

static cs_status read_charsmap(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  const uint64_t n = cs_gguf_array_length(gguf, KEY("precompiled_charsmap"));
  if (n == 0) return CS_OK;
  if (n > cs_gguf_bytes(gguf))
    return cs_gguf_fail(gguf, error, CS_CORRUPT,
                        "key \"" KEY("precompiled_charsmap") "\": too long");
  cs_step step = {.kind = CS_STEP_CHARSMAP, .text = malloc((size_t)n), .text_bytes = (size_t)n};
  if (!step.text) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  cs_error why = CS_ERROR_INIT;
  cs_status status = CS_OK;
  if (!cs_gguf_array_bytes(gguf, KEY("precompiled_charsmap"), step.text, (size_t)n))
    status = cs_error_set(&why, CS_CORRUPT, "its elements are no bytes");
  else
    status = cs_charsmap_check(step.text, step.text_bytes, &why);
  if (status == CS_OK) return cs_steps_add(&t->normalizers, &step, error);
  free(step.text);
  return cs_gguf_fail(gguf, error, status, "key \"" KEY("precompiled_charsmap") "\": %s",
                      why.message);
}

static cs_status add_replacement(cs_steps *steps, const char *pattern, const char *by,
                                 cs_error *error) {
  cs_step step = {.kind = CS_STEP_REPLACE, .text = strdup(by), .text_bytes = strlen(by)};
  if (!step.text) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = cs_pattern_create(pattern, strlen(pattern), &step.pattern, error);
  if (status == CS_OK) return cs_steps_add(steps, &step, error);
  free(step.text);
  return status;
}

/* SentencePiece: the table, then spaces at the ends go and those in a row become one, then marks.
 */
static cs_status read_unigram(cs_tokenizer *t, const cs_gguf *gguf, cs_error *error) {
  bool remove_spaces = false;
  t->fuse_unknown = true;
  if (t->unknown < 0)
    return cs_gguf_fail(gguf, error, CS_CORRUPT,
                        "key \"" KEY("unknown_token_id") "\": a unigram tokenizer needs one");
  cs_gguf_get_bool(gguf, KEY("remove_extra_whitespaces"), &remove_spaces);
  cs_status status = read_charsmap(t, gguf, error);
  if (status == CS_OK && remove_spaces) {
    status = add_replacement(&t->normalizers, "^ +| +$", "", error);
    if (status == CS_OK) status = add_replacement(&t->normalizers, " {2,}", " ", error);
  }
  if (status == CS_OK && t->add_space_prefix) {
    const cs_step prefix = {
        .kind = CS_STEP_PREPEND, .text = strdup(SPACE_MARK), .text_bytes = strlen(SPACE_MARK)};
    if (!prefix.text) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
    status = cs_steps_add(&t->normalizers, &prefix, error);
  }
  if (status == CS_OK) status = add_replacement(&t->normalizers, " ", SPACE_MARK, error);
  if (status == CS_OK && !cs_tokenizer_index_unigram(t))
    status = cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  return status;
}

/* ---- creating ---------------------------------------------------------------------------- */

static cs_status check_kind(const cs_gguf *gguf, const kind **out, uint64_t *n_vocab,
                            cs_error *error) {
  cs_gguf_string name;
  *out = NULL;
  if (!cs_gguf_get_string(gguf, KEY("model"), &name))
    return cs_gguf_fail(gguf, error, CS_NOT_FOUND, "the file has no tokenizer");
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
    if (strlen(kinds[i].name) == name.bytes && memcmp(name.data, kinds[i].name, name.bytes) == 0)
      *out = &kinds[i];
  if (!*out)
    return cs_gguf_fail(gguf, error, CS_UNSUPPORTED,
                        "tokenizer \"%.*s\" is not supported; supported: llama, gpt2, t5",
                        name.bytes > 40 ? 40 : (int)name.bytes, name.data);
  *n_vocab = cs_gguf_array_length(gguf, KEY("tokens"));
  if (*n_vocab == 0 || *n_vocab > INT32_MAX / 4)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"" KEY("tokens") "\": %llu tokens",
                        (unsigned long long)*n_vocab);
  return CS_OK;
}

static cs_status read_model(cs_tokenizer *t, const cs_gguf *gguf, const kind *usual,
                            cs_error *error) {
  bool add_bos = usual->add_bos;
  cs_status status = CS_OK;
  t->add_space_prefix = usual->add_space_prefix;
  cs_gguf_get_bool(gguf, KEY("add_space_prefix"), &t->add_space_prefix);
  t->decodes_marks = t->kind != CS_TOKENIZER_MERGES;
  t->n_stripped = t->decodes_marks && t->add_space_prefix;
  if (t->kind == CS_TOKENIZER_MERGES) status = read_byte_level(t, gguf, &add_bos, error);
  if (status == CS_OK) status = cs_tokenizer_index_added(t, error);
  if (status == CS_OK) status = read_settings(t, gguf, usual, add_bos, error);
  if (status == CS_OK && t->kind == CS_TOKENIZER_UNIGRAM) status = read_unigram(t, gguf, error);
  return status;
}

cs_status cs_tokenizer_create(const cs_gguf *gguf, cs_tokenizer **out, cs_error *error) {
  *out = NULL;
  uint64_t n_vocab = 0;
  const kind *usual;
  cs_status status = check_kind(gguf, &usual, &n_vocab, error);
  if (status != CS_OK) return status;
  cs_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  t->n_vocab = (uint32_t)n_vocab;
  t->kind = usual->kind;
  t->source = usual->name;
  t->unknown = t->bos = t->eos = -1;
  status = copy_pieces(t, gguf, error);
  if (status == CS_OK && t->kind != CS_TOKENIZER_MERGES) status = read_scores(t, gguf, error);
  if (status == CS_OK) status = read_types(t, gguf, error);
  if (status == CS_OK && !cs_tokenizer_index_text(t))
    status = cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  if (status == CS_OK) status = read_model(t, gguf, usual, error);
  if (status != CS_OK) {
    cs_tokenizer_destroy(t);
    return status;
  }
  *out = t;
  return CS_OK;
}

void cs_tokenizer_destroy(cs_tokenizer *t) {
  if (!t) return;
  for (uint32_t i = 0; t->normalized && i < t->n_vocab; i++)
    free(t->normalized[i]);
  free(t->normalized);
  free(t->pieces);
  free(t->arena);
  free(t->table);
  free(t->added);
  free(t->merges);
  free(t->sorted);
  free(t->prefix);
  free(t->suffix);
  cs_steps_finish(&t->normalizers);
  cs_steps_finish(&t->pre_tokenizers);
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
  const size_t growth = t->n_replacements > 0 ? sizeof t->replacements[0].to : 3; /* U+FFFD */
  return growth * (t->max_piece_bytes + sizeof(((cs_detokenizer *)0)->pending));
}

const char *cs_tokenizer_kind(const cs_tokenizer *t) {
  return t->source;
}
