/* tokenizer.json: the vocabulary and the model. Ids may leave holes, and added tokens may lie
 * beyond the vocabulary or repeat it; both are gathered into one array of pieces first. */
#include "models/tokenizer_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "models/mapped_file.h"
#include "models/text_file.h"

#define MAX_FILE_BYTES  (1u << 28)
#define MAX_PIECE_BYTES (1u << 16)

/* ---- errors and values ------------------------------------------------------------------- */

cs_status cs_json_fail(const cs_json_reader *r, cs_status code, const char *format, ...) {
  char message[200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  cs_text_make_printable(message);
  return cs_error_set(r->error, code, "%s: %s", r->name, message);
}

cs_status cs_json_fail_with(const cs_json_reader *r, cs_status code, const char *what,
                            const cs_error *why) {
  return cs_json_fail(r, code, "%s: %s", what, why->message);
}

static cs_status no_memory(const cs_json_reader *r) {
  return cs_json_fail(r, CS_OUT_OF_MEMORY, "out of memory");
}

bool cs_json_bool(const json_t *object, const char *key, bool usual) {
  const json_t *value = json_object_get(object, key);
  return json_is_boolean(value) ? json_boolean_value(value) : usual;
}

const char *cs_json_text(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

/* ---- pieces ------------------------------------------------------------------------------ */

/* Calls `each` for every entry of the vocabulary and every added token. */
typedef cs_status (*piece_visitor)(cs_json_reader *r, void *user, const char *text, size_t bytes,
                                   json_int_t id, double score, const json_t *added);

static cs_status visit_vocabulary(cs_json_reader *r, const json_t *vocab, piece_visitor each,
                                  void *user) {
  cs_status status = CS_OK;
  const char *key;
  json_t *value;
  size_t i;
  if (json_is_object(vocab)) {
    void *at = json_object_iter((json_t *)vocab);
    for (; at && status == CS_OK; at = json_object_iter_next((json_t *)vocab, at)) {
      key = json_object_iter_key(at);
      value = json_object_iter_value(at);
      status =
          json_is_integer(value)
              ? each(r, user, key, json_object_iter_key_len(at), json_integer_value(value), 0, NULL)
              : cs_json_fail(r, CS_CORRUPT, "model.vocab: token \"%.40s\" has no id", key);
    }
    return status;
  }
  json_array_foreach(vocab, i, value) {
    const json_t *text = json_array_get(value, 0), *score = json_array_get(value, 1);
    if (!json_is_string(text) || !json_is_number(score))
      return cs_json_fail(r, CS_CORRUPT, "model.vocab: entry %zu is no [token, score]", i);
    status = each(r, user, json_string_value(text), json_string_length(text), (json_int_t)i,
                  json_number_value(score), NULL);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

static cs_status visit_added(cs_json_reader *r, const json_t *added, piece_visitor each,
                             void *user) {
  size_t i;
  json_t *token;
  json_array_foreach(added, i, token) {
    const json_t *id = json_object_get(token, "id"), *content = json_object_get(token, "content");
    if (!json_is_integer(id) || !json_is_string(content))
      return cs_json_fail(r, CS_CORRUPT, "added_tokens: entry %zu has no id or content", i);
    const cs_status status = each(r, user, json_string_value(content), json_string_length(content),
                                  json_integer_value(id), 0, token);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

typedef struct tally {
  size_t n;
  size_t bytes;
  json_int_t highest;
  char *at; /* where the next spelling goes in the arena */
} tally;

static cs_status count_piece(cs_json_reader *r, void *user, const char *text, size_t bytes,
                             json_int_t id, double score, const json_t *added) {
  tally *all = user;
  (void)score;
  (void)added;
  if (id < 0 || id > INT32_MAX / 4)
    return cs_json_fail(r, CS_CORRUPT, "token \"%.40s\": id %lld is out of range", text,
                        (long long)id);
  if (bytes > MAX_PIECE_BYTES)
    return cs_json_fail(r, CS_CORRUPT, "token %lld is %zu bytes long", (long long)id, bytes);
  if (id > all->highest) all->highest = id;
  all->n++;
  all->bytes += bytes + 1;
  return CS_OK;
}

static cs_status place_piece(cs_json_reader *r, void *user, const char *text, size_t bytes,
                             json_int_t id, double score, const json_t *added) {
  tally *all = user;
  cs_tokenizer *t = r->tokenizer;
  cs_piece *piece = &t->pieces[id];
  if (!added && piece->is_text)
    return cs_json_fail(r, CS_CORRUPT, "model.vocab: tokens \"%.40s\" and \"%.40s\" share id %lld",
                        piece->text, text, (long long)id);
  memcpy(all->at, text, bytes);
  all->at[bytes] = '\0';
  if (added) {
    piece->type = cs_json_bool(added, "special", false) ? CS_PIECE_CONTROL : CS_PIECE_USER_DEFINED;
    const bool normalized = cs_json_bool(added, "normalized", piece->type == CS_PIECE_USER_DEFINED);
    piece->matches =
        (uint8_t)((cs_json_bool(added, "lstrip", false) ? CS_ADDED_LSTRIP : 0) |
                  (cs_json_bool(added, "rstrip", false) ? CS_ADDED_RSTRIP : 0) |
                  (cs_json_bool(added, "single_word", false) ? CS_ADDED_SINGLE_WORD : 0) |
                  (normalized ? CS_ADDED_NORMALIZED : 0));
  } else {
    piece->type = CS_PIECE_NORMAL;
    piece->is_text = true;
    piece->score = score;
  }
  piece->text = all->at;
  piece->bytes = (uint32_t)bytes;
  if (bytes > t->max_piece_bytes) t->max_piece_bytes = bytes;
  all->at += bytes + 1;
  return CS_OK;
}

static cs_status read_pieces(cs_json_reader *r, const json_t *vocab, const json_t *added) {
  cs_tokenizer *t = r->tokenizer;
  tally all = {.highest = -1};
  if (!json_is_object(vocab) && !json_is_array(vocab))
    return cs_json_fail(r, CS_CORRUPT, "model.vocab: neither an object nor an array");
  cs_status status = visit_vocabulary(r, vocab, count_piece, &all);
  if (status == CS_OK) status = visit_added(r, added, count_piece, &all);
  if (status != CS_OK) return status;
  if (all.highest < 0) return cs_json_fail(r, CS_CORRUPT, "model.vocab: empty");
  if ((uint64_t)all.highest > 4 * (uint64_t)all.n + 65536)
    return cs_json_fail(r, CS_CORRUPT, "model.vocab: id %lld for %zu tokens",
                        (long long)all.highest, all.n);
  t->n_vocab = (uint32_t)all.highest + 1;
  t->pieces = calloc(t->n_vocab, sizeof *t->pieces);
  t->arena = malloc(all.bytes + 1);
  if (!t->pieces || !t->arena) return no_memory(r);
  all.at = t->arena;
  *all.at++ = '\0'; /* what a hole is spelled */
  for (uint32_t i = 0; i < t->n_vocab; i++)
    t->pieces[i] = (cs_piece){.text = t->arena, .type = CS_PIECE_UNUSED};
  status = visit_vocabulary(r, vocab, place_piece, &all);
  if (status == CS_OK) status = visit_added(r, added, place_piece, &all);
  return status;
}

/* ---- the model --------------------------------------------------------------------------- */

/* Byte tokens stay text for unigram, where the tokenizers library finds them by spelling too. */
static void read_byte_tokens(cs_tokenizer *t) {
  memset(t->byte_ids, 0xff, sizeof t->byte_ids);
  if (!t->byte_fallback) return;
  for (uint32_t i = t->n_vocab; i-- > 0;) {
    cs_piece *piece = &t->pieces[i];
    const int byte = piece->type == CS_PIECE_NORMAL ? cs_tokenizer_byte_of_spelling(piece) : -1;
    if (byte < 0) continue;
    piece->type = CS_PIECE_BYTE;
    piece->byte = (uint8_t)byte;
    piece->is_text = t->kind == CS_TOKENIZER_UNIGRAM;
    t->byte_ids[byte] = (int32_t)i;
  }
}

/* A merge is "left right" or ["left", "right"]. */
static bool split_merge(const json_t *entry, const char *side[2], size_t bytes[2]) {
  if (json_is_array(entry)) {
    for (size_t i = 0; i < 2; i++) {
      side[i] = json_string_value(json_array_get(entry, i));
      bytes[i] = json_string_length(json_array_get(entry, i));
    }
    return side[0] && side[1];
  }
  side[0] = json_string_value(entry);
  const char *space = side[0] ? strchr(side[0], ' ') : NULL;
  if (!space) return false;
  side[1] = space + 1;
  bytes[0] = (size_t)(space - side[0]);
  bytes[1] = json_string_length(entry) - bytes[0] - 1;
  return true;
}

static cs_status read_merge(cs_json_reader *r, const json_t *entry, size_t rank, cs_merge *merge) {
  const cs_tokenizer *t = r->tokenizer;
  const char *side[2];
  size_t bytes[2];
  if (!split_merge(entry, side, bytes))
    return cs_json_fail(r, CS_CORRUPT, "model.merges: entry %zu is no pair", rank);
  char *joined = malloc(bytes[0] + bytes[1] + 1);
  if (!joined) return no_memory(r);
  memcpy(joined, side[0], bytes[0]);
  memcpy(joined + bytes[0], side[1], bytes[1]);
  *merge =
      (cs_merge){cs_tokenizer_find(t, side[0], bytes[0]), cs_tokenizer_find(t, side[1], bytes[1]),
                 cs_tokenizer_find(t, joined, bytes[0] + bytes[1]), (uint32_t)rank};
  free(joined);
  if (merge->left >= 0 && merge->right >= 0 && merge->merged >= 0) return CS_OK;
  return cs_json_fail(r, CS_CORRUPT,
                      "model.merges: entry %zu (\"%.20s\", \"%.20s\") is not of the "
                      "vocabulary",
                      rank, side[0], side[1]);
}

static cs_status read_merges(cs_json_reader *r, const json_t *list) {
  const size_t n = json_array_size(list);
  if (n > INT32_MAX / 4) return cs_json_fail(r, CS_CORRUPT, "model.merges: too many");
  cs_merge *merges = malloc((n + 1) * sizeof *merges);
  if (!merges) return no_memory(r);
  cs_status status = CS_OK;
  for (size_t i = 0; i < n && status == CS_OK; i++)
    status = read_merge(r, json_array_get(list, i), i, &merges[i]);
  if (status == CS_OK && !cs_tokenizer_index_merges(r->tokenizer, merges, n)) status = no_memory(r);
  free(merges);
  return status;
}

static cs_status read_bpe(cs_json_reader *r, const json_t *model) {
  cs_tokenizer *t = r->tokenizer;
  static const char *const refused[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < 2; i++)
    if (cs_json_text(model, refused[i])[0])
      return cs_json_fail(r, CS_UNSUPPORTED, "model.%s is not supported", refused[i]);
  if (json_is_number(json_object_get(model, "dropout")) &&
      json_number_value(json_object_get(model, "dropout")) > 0)
    return cs_json_fail(r, CS_UNSUPPORTED, "model.dropout is not supported");
  t->ignore_merges = cs_json_bool(model, "ignore_merges", false);
  t->fuse_unknown = cs_json_bool(model, "fuse_unk", false);
  if (!cs_tokenizer_index_text(t)) return no_memory(r);
  const json_t *unknown = json_object_get(model, "unk_token");
  if (json_is_string(unknown))
    t->unknown = cs_tokenizer_find(t, json_string_value(unknown), json_string_length(unknown));
  return read_merges(r, json_object_get(model, "merges"));
}

static cs_status read_unigram(cs_json_reader *r, const json_t *model) {
  cs_tokenizer *t = r->tokenizer;
  const json_t *unknown = json_object_get(model, "unk_id");
  t->fuse_unknown = true;
  if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
      json_integer_value(unknown) >= t->n_vocab)
    return cs_json_fail(r, CS_UNSUPPORTED, "model.unk_id: a unigram model needs one");
  t->unknown = (int32_t)json_integer_value(unknown);
  if (!cs_tokenizer_index_text(t) || !cs_tokenizer_index_unigram(t)) return no_memory(r);
  return CS_OK;
}

static cs_status read_model(cs_json_reader *r, const json_t *root) {
  cs_tokenizer *t = r->tokenizer;
  const json_t *model = json_object_get(root, "model");
  const json_t *vocab = json_object_get(model, "vocab");
  const char *type = cs_json_text(model, "type");
  if (!type[0]) type = json_is_array(vocab) ? "Unigram" : "BPE";
  if (strcmp(type, "BPE") != 0 && strcmp(type, "Unigram") != 0)
    return cs_json_fail(r, CS_UNSUPPORTED,
                        "model \"%.40s\" is not supported; supported: BPE, Unigram", type);
  const bool unigram = type[0] == 'U';
  t->kind = unigram ? CS_TOKENIZER_UNIGRAM : CS_TOKENIZER_MERGES;
  t->source = unigram ? "Unigram" : "BPE";
  if (json_is_array(vocab) != unigram)
    return cs_json_fail(r, CS_CORRUPT, "model.vocab: not what a model \"%s\" has", type);
  const cs_status status = read_pieces(r, vocab, json_object_get(root, "added_tokens"));
  if (status != CS_OK) return status;
  t->byte_fallback = cs_json_bool(model, "byte_fallback", false);
  read_byte_tokens(t);
  return unigram ? read_unigram(r, model) : read_bpe(r, model);
}

/* ---- BOS and EOS ------------------------------------------------------------------------- */

static int32_t find_any(const cs_tokenizer *t, const char *text) {
  for (uint32_t i = 0; text[0] && i < t->n_vocab; i++)
    if (strcmp(t->pieces[i].text, text) == 0) return (int32_t)i;
  return -1;
}

int32_t cs_json_token(const cs_tokenizer *t, const json_t *config, const char *key) {
  const json_t *value = json_object_get(config, key);
  if (json_is_object(value)) value = json_object_get(value, "content");
  return json_is_string(value) ? find_any(t, json_string_value(value)) : -1;
}

static cs_status read_config(cs_json_reader *r, const char *config, size_t bytes) {
  cs_tokenizer *t = r->tokenizer;
  json_error_t where;
  json_t *root = config ? json_loadb(config, bytes, JSON_ALLOW_NUL, &where) : NULL;
  if (config && !root)
    return cs_json_fail(r, CS_CORRUPT, "tokenizer_config.json, line %d: %s", where.line,
                        where.text);
  t->bos = cs_json_token(t, root, "bos_token");
  t->eos = cs_json_token(t, root, "eos_token");
  json_decref(root);
  if (t->bos < 0 && t->n_prefix > 0) t->bos = t->prefix[0];
  cs_tokenizer_mark_ends(t);
  return CS_OK;
}

/* ---- creating ---------------------------------------------------------------------------- */

static cs_status read_root(cs_json_reader *r, const json_t *root) {
  if (!json_is_object(json_object_get(root, "model")))
    return cs_json_fail(r, CS_CORRUPT, "no \"model\": not a tokenizer.json");
  cs_status status = read_model(r, root);
  if (status == CS_OK) status = cs_json_normalizer(r, json_object_get(root, "normalizer"));
  if (status == CS_OK) status = cs_json_pre_tokenizer(r, json_object_get(root, "pre_tokenizer"));
  if (status == CS_OK) status = cs_json_post_processor(r, json_object_get(root, "post_processor"));
  if (status == CS_OK) status = cs_json_decoder(r, json_object_get(root, "decoder"));
  if (status == CS_OK) {
    cs_error why = CS_ERROR_INIT;
    status = cs_tokenizer_index_added(r->tokenizer, &why);
    if (status != CS_OK) cs_json_fail_with(r, status, "added_tokens", &why);
  }
  return status;
}

cs_status cs_tokenizer_create_json(const char *name, const char *json, size_t json_bytes,
                                   const char *config, size_t config_bytes, cs_tokenizer **out,
                                   cs_error *error) {
  *out = NULL;
  cs_json_reader r = {.name = name, .error = error};
  json_error_t where;
  json_t *root = json_loadb(json, json_bytes, JSON_ALLOW_NUL, &where);
  if (!root) return cs_json_fail(&r, CS_CORRUPT, "line %d: %s", where.line, where.text);
  r.tokenizer = calloc(1, sizeof *r.tokenizer);
  if (!r.tokenizer) {
    json_decref(root);
    return no_memory(&r);
  }
  r.tokenizer->unknown = r.tokenizer->bos = r.tokenizer->eos = -1;
  cs_status status = read_root(&r, root);
  json_decref(root);
  if (status == CS_OK) status = read_config(&r, config, config_bytes);
  if (status == CS_OK)
    *out = r.tokenizer;
  else
    cs_tokenizer_destroy(r.tokenizer);
  return status;
}

/* ---- files ------------------------------------------------------------------------------- */

bool cs_tokenizer_path_is_json(const char *path) {
  const size_t bytes = strlen(path);
  char config[4096];
  struct stat about;
  if (bytes > 5 && strcmp(path + bytes - 5, ".json") == 0) return true;
  return cs_file_is_folder(path) &&
         cs_file_beside(path, "config.json", config, sizeof config) == CS_OK &&
         stat(config, &about) != 0;
}

cs_status cs_tokenizer_open_json(const char *path, cs_tokenizer **out, cs_error *error) {
  *out = NULL;
  char file[4096], beside[4096];
  struct stat about;
  if (cs_file_beside(path, "tokenizer_config.json", beside, sizeof beside) != CS_OK ||
      cs_file_beside(path, "tokenizer.json", file, sizeof file) != CS_OK)
    return cs_error_set(error, CS_OUT_OF_RANGE, "the path is too long");
  if (!cs_file_is_folder(path)) snprintf(file, sizeof file, "%s", path);
  char *json, *config = NULL;
  size_t json_bytes, config_bytes = 0;
  cs_status status = cs_file_read(file, MAX_FILE_BYTES, &json, &json_bytes, error);
  if (status != CS_OK) return status;
  if (stat(beside, &about) == 0)
    status = cs_file_read(beside, MAX_FILE_BYTES, &config, &config_bytes, error);
  if (status == CS_OK)
    status = cs_tokenizer_create_json(file, json, json_bytes, config, config_bytes, out, error);
  free(config);
  free(json);
  return status;
}
