/* A tokenizer.json lists its steps; a GGUF file names a kind and a recipe. Writing one as the other
 * is safe only where both do the same, so each kind checks the steps that were read against what a
 * reader of GGUF will do, and refuses the rest by name. The keys go to a small file in memory
 * first, which is read back as any GGUF file is and compared, then copied. */
#include "models/tokenizer_gguf.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/gguf_internal.h"
#include "models/text_file.h"
#include "models/tokenizer_json.h"

#define KEY(suffix)      "tokenizer.ggml." suffix
#define SPACE_MARK       "\xe2\x96\x81"
#define MAX_CONFIG_BYTES (1u << 26)

typedef struct job {
  const cs_tokenizer *tokenizer;
  cs_gguf_writer *writer;
  cs_error *error;
  const char *model; /* "gpt2", "llama" or "t5" */
  const char *pre;
  cs_merge *merges; /* in the order of their ranks */
  size_t n_merges;
  float *scores; /* NULL: none */
  int32_t pad;
  uint32_t n_tokens;
  bool add_space_prefix;
  bool remove_spaces;
} job;

static cs_status no_memory(cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}

static cs_status refuse(const job *j, const char *why) {
  return cs_error_set(j->error, CS_UNSUPPORTED, "%s", why);
}

/* ---- merges ------------------------------------------------------------------------------ */

static int compare_ranks(const void *a, const void *b) {
  const uint32_t left = ((const cs_merge *)a)->rank, right = ((const cs_merge *)b)->rank;
  return left < right ? -1 : left > right;
}

static cs_status sort_merges(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  const size_t n_places = (size_t)t->merge_mask + 1;
  j->merges = malloc(n_places * sizeof *j->merges);
  if (!j->merges) return no_memory(j->error);
  for (size_t i = 0; i < n_places; i++)
    if (t->merges[i].left >= 0) j->merges[j->n_merges++] = t->merges[i];
  qsort(j->merges, j->n_merges, sizeof *j->merges, compare_ranks);
  return CS_OK;
}

/* ---- what each kind of file can say ------------------------------------------------------ */

static cs_status check_added(const job *j) {
  const cs_tokenizer *t = j->tokenizer;
  for (uint32_t i = 0; i < t->n_added; i++) {
    const cs_piece *piece = &t->pieces[t->added[i].id];
    const char *why = NULL;
    if (piece->matches & (CS_ADDED_LSTRIP | CS_ADDED_RSTRIP | CS_ADDED_SINGLE_WORD))
      why = "has lstrip, rstrip or single_word";
    else if (t->added[i].bytes != piece->bytes ||
             memcmp(t->added[i].match, piece->text, piece->bytes) != 0)
      why = "is changed by the normalizer";
    else if (j->add_space_prefix && t->kind == CS_TOKENIZER_MERGES &&
             piece->type == CS_PIECE_USER_DEFINED)
      why = "is no special one, and a space would follow it";
    if (why)
      return cs_error_set(j->error, CS_UNSUPPORTED, "added token \"%.40s\" %s", piece->text, why);
  }
  return CS_OK;
}

/* At most BOS in front and EOS behind. */
static cs_status check_affixes(const job *j) {
  const cs_tokenizer *t = j->tokenizer;
  if (t->n_prefix > 1 || t->n_suffix > 1 || (t->n_prefix == 1 && t->prefix[0] != t->bos) ||
      (t->n_suffix == 1 && t->eos >= 0 && t->suffix[0] != t->eos))
    return refuse(j, "its post_processor adds other tokens than BOS in front and EOS behind");
  return CS_OK;
}

/* *same: merges alone make every piece of the vocabulary, so that ignore_merges changes nothing. */
static cs_status merges_make_all(const job *j, bool *same) {
  cs_tokenizer plain = *j->tokenizer;
  cs_id_list ids = {0};
  cs_status status = CS_OK;
  plain.ignore_merges = false;
  *same = true;
  for (uint32_t i = 0; status == CS_OK && *same && i < plain.n_vocab; i++) {
    const cs_piece *piece = &plain.pieces[i];
    if (piece->type != CS_PIECE_NORMAL) continue;
    ids.n = 0;
    status = cs_tokenizer_merge(&plain, piece->text, piece->bytes, &ids, j->error);
    *same = ids.n == 1 && ids.ids[0] == cs_tokenizer_find(&plain, piece->text, piece->bytes);
  }
  free(ids.ids);
  return status;
}

/* With its own ignore_merges, or with the other where that changes nothing. */
static cs_status find_name(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  const char *other = NULL;
  bool same;
  if (cs_pre_tokenizer_name_of(&t->normalizers, &t->pre_tokenizers, t->ignore_merges, &j->pre) !=
          CS_OK ||
      cs_pre_tokenizer_name_of(&t->normalizers, &t->pre_tokenizers, !t->ignore_merges, &other) !=
          CS_OK)
    return no_memory(j->error);
  if (j->pre || !other) return CS_OK;
  const cs_status status = merges_make_all(j, &same);
  if (status == CS_OK && same) j->pre = other;
  return status;
}

static cs_status plan_byte_level(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  const cs_status status = find_name(j);
  if (status != CS_OK) return status;
  if (!j->pre)
    return refuse(j, "no name for tokenizer.ggml.pre stands for its normalizer, pre_tokenizer and "
                     "ignore_merges");
  for (int byte = 0; byte < 256 && (t->byte_fallback || t->fuse_unknown); byte++) {
    char character[2];
    const uint32_t bytes = cs_byte_character((uint8_t)byte, character);
    if (cs_tokenizer_find(t, character, bytes) < 0)
      return refuse(j, "the vocabulary lacks bytes that byte_fallback or fuse_unk stand in for");
  }
  j->model = "gpt2";
  return CS_OK;
}

static bool is_text(const cs_step *step, uint32_t kind, const char *text) {
  return step->kind == kind && step->text_bytes == strlen(text) &&
         memcmp(step->text, text, step->text_bytes) == 0;
}

/* Spaces become marks, with one in front of every stretch or of none. Metaspace puts none where the
 * stretch begins with a space, which GGUF cannot say. */
static bool marks_spaces(const cs_tokenizer *t, bool *prefix) {
  const cs_step *step = t->normalizers.list, *metaspace = t->pre_tokenizers.list;
  if (t->normalizers.n == 0 && t->pre_tokenizers.n == 1) {
    *prefix = false;
    return is_text(metaspace, CS_STEP_METASPACE, SPACE_MARK) && !metaspace->cuts &&
           metaspace->prefix == CS_PREFIX_NEVER;
  }
  if (t->pre_tokenizers.n > 0 || t->normalizers.n == 0 || t->normalizers.n > 2) return false;
  *prefix = t->normalizers.n == 2;
  if (*prefix && !is_text(step++, CS_STEP_PREPEND, SPACE_MARK)) return false;
  return is_text(step, CS_STEP_REPLACE, SPACE_MARK) && cs_pattern_is_literal(step->pattern, " ");
}

/* SentencePiece joins any two pieces whose joint spelling is one: the list must have each pair, and
 * all pairs of one spelling in a row. */
static cs_status check_pairs(const job *j) {
  const cs_tokenizer *t = j->tokenizer;
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (piece->type != CS_PIECE_NORMAL) continue;
    for (uint32_t at = 1; at < piece->bytes; at++) {
      const int32_t left = cs_tokenizer_find(t, piece->text, at);
      const int32_t right = cs_tokenizer_find(t, piece->text + at, piece->bytes - at);
      if (left >= 0 && right >= 0 && t->pieces[left].type == CS_PIECE_NORMAL &&
          t->pieces[right].type == CS_PIECE_NORMAL && !cs_tokenizer_find_merge(t, left, right))
        return cs_error_set(j->error, CS_UNSUPPORTED,
                            "\"%.40s\" and \"%.40s\" have no merge, and scores would join them",
                            t->pieces[left].text, t->pieces[right].text);
    }
  }
  return CS_OK;
}

/* The rank of the first pair that becomes a piece, below zero; others below all merges. */
static cs_status score_merges(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  j->scores = malloc(t->n_vocab * sizeof *j->scores);
  if (!j->scores) return no_memory(j->error);
  for (uint32_t i = 0; i < t->n_vocab; i++)
    j->scores[i] = t->pieces[i].type == CS_PIECE_NORMAL ? -(float)j->n_merges : 0;
  for (size_t i = 0; i < j->n_merges; i++) {
    const cs_merge *merge = &j->merges[i];
    if (t->pieces[merge->merged].type != CS_PIECE_NORMAL)
      return refuse(j, "a merge makes an added token");
    if (i > 0 && merge->merged == j->merges[i - 1].merged) continue;
    if (j->scores[merge->merged] != -(float)j->n_merges)
      return cs_error_set(j->error, CS_UNSUPPORTED, "the merges that make \"%.40s\" stand apart",
                          t->pieces[merge->merged].text);
    j->scores[merge->merged] = -(float)i;
  }
  return CS_OK;
}

static cs_status plan_sentences(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  if (!marks_spaces(t, &j->add_space_prefix))
    return refuse(j,
                  "its normalizer and pre_tokenizer are neither of a byte-level BPE nor those of "
                  "SentencePiece with a space in front of every stretch or of none");
  if (t->ignore_merges) return refuse(j, "ignore_merges has no place beside scores");
  if (j->n_merges >= 1u << 24) return refuse(j, "too many merges for scores");
  for (int byte = 0; byte < 256; byte++)
    if (!t->byte_fallback || t->byte_ids[byte] < 0)
      return refuse(j, "the vocabulary has no byte_fallback for every byte");
  j->model = "llama";
  j->pre = "default";
  cs_status status = check_pairs(j);
  if (status == CS_OK) status = score_merges(j);
  return status;
}

static cs_status plan_unigram(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  const cs_steps *pre = &t->pre_tokenizers;
  const cs_step *last = pre->n > 0 ? &pre->list[pre->n - 1] : NULL;
  if (!last || pre->n > 1 || !is_text(last, CS_STEP_METASPACE, SPACE_MARK) ||
      last->prefix == CS_PREFIX_FIRST)
    return refuse(j, "its pre_tokenizer is not Metaspace with a space in front of every stretch or "
                     "of none");
  if (t->normalizers.n > 1 ||
      (t->normalizers.n == 1 && t->normalizers.list[0].kind != CS_STEP_CHARSMAP))
    return refuse(j, "its normalizer is more than Precompiled");
  if (t->byte_fallback) return refuse(j, "a unigram model has no byte_fallback in GGUF");
  j->add_space_prefix = last->prefix == CS_PREFIX_ALWAYS;
  j->model = "t5";
  j->pre = "default";
  j->scores = malloc(t->n_vocab * sizeof *j->scores);
  if (!j->scores) return no_memory(j->error);
  for (uint32_t i = 0; i < t->n_vocab; i++)
    j->scores[i] = (float)t->pieces[i].score;
  return CS_OK;
}

static cs_status plan(job *j) {
  const cs_tokenizer *t = j->tokenizer;
  cs_status status = check_affixes(j);
  if (status == CS_OK && t->kind == CS_TOKENIZER_MERGES) status = sort_merges(j);
  if (status != CS_OK) return status;
  if (t->kind == CS_TOKENIZER_UNIGRAM)
    status = plan_unigram(j);
  else if (t->byte_level)
    status = plan_byte_level(j);
  else
    status = plan_sentences(j);
  return status == CS_OK ? check_added(j) : status;
}

/* ---- keys -------------------------------------------------------------------------------- */

static void write_tokens(const job *j) {
  const cs_tokenizer *t = j->tokenizer;
  char spelling[24];
  cs_gguf_write_array(j->writer, KEY("tokens"), CS_GGUF_KIND_STRING, j->n_tokens);
  for (uint32_t i = 0; i < j->n_tokens; i++) {
    if (i < t->n_vocab && t->pieces[i].bytes > 0) {
      cs_gguf_write_string_element(j->writer, t->pieces[i].text, t->pieces[i].bytes);
      continue;
    }
    const int n = snprintf(spelling, sizeof spelling, "[PAD%u]", i);
    cs_gguf_write_string_element(j->writer, spelling, (size_t)n);
  }
  cs_gguf_write_array(j->writer, KEY("token_type"), CS_GGUF_KIND_I32, j->n_tokens);
  for (uint32_t i = 0; i < j->n_tokens; i++) {
    const uint32_t type = i < t->n_vocab ? t->pieces[i].type : CS_PIECE_UNUSED;
    cs_gguf_write_elements(j->writer, &type, sizeof type);
  }
}

static cs_status write_merges(const job *j) {
  const cs_tokenizer *t = j->tokenizer;
  cs_text text = {0};
  bool done = true;
  cs_gguf_write_array(j->writer, KEY("merges"), CS_GGUF_KIND_STRING, j->n_merges);
  for (size_t i = 0; i < j->n_merges && done; i++) {
    const cs_piece *left = &t->pieces[j->merges[i].left], *right = &t->pieces[j->merges[i].right];
    text.bytes = 0;
    done = cs_text_append(&text, left->text, left->bytes) && cs_text_append(&text, " ", 1) &&
           cs_text_append(&text, right->text, right->bytes);
    if (done) cs_gguf_write_string_element(j->writer, text.data, text.bytes);
  }
  free(text.data);
  return done ? CS_OK : no_memory(j->error);
}

static void write_id(const job *j, const char *key, int32_t id) {
  if (id >= 0) cs_gguf_write_u32(j->writer, key, (uint32_t)id);
}

static void write_scores(const job *j) {
  const float unused = 0;
  cs_gguf_write_array(j->writer, KEY("scores"), CS_GGUF_KIND_F32, j->n_tokens);
  for (uint32_t i = 0; i < j->n_tokens; i++)
    cs_gguf_write_elements(j->writer, i < j->tokenizer->n_vocab ? &j->scores[i] : &unused,
                           sizeof unused);
  cs_gguf_write_bool(j->writer, KEY("add_space_prefix"), j->add_space_prefix);
}

static cs_status write_keys(const job *j) {
  const cs_tokenizer *t = j->tokenizer;
  cs_gguf_write_string(j->writer, KEY("model"), j->model);
  cs_gguf_write_string(j->writer, KEY("pre"), j->pre);
  write_tokens(j);
  if (j->scores) write_scores(j);
  cs_status status = j->scores ? CS_OK : write_merges(j);
  if (t->kind == CS_TOKENIZER_UNIGRAM && t->normalizers.n > 0) {
    const cs_step *map = t->normalizers.list;
    cs_gguf_write_array(j->writer, KEY("precompiled_charsmap"), CS_GGUF_KIND_U8, map->text_bytes);
    cs_gguf_write_elements(j->writer, map->text, map->text_bytes);
  }
  write_id(j, KEY("bos_token_id"), t->bos);
  write_id(j, KEY("eos_token_id"), t->eos < 0 && t->n_suffix > 0 ? t->suffix[0] : t->eos);
  write_id(j, KEY("unknown_token_id"), t->unknown);
  write_id(j, KEY("padding_token_id"), j->pad);
  cs_gguf_write_bool(j->writer, KEY("add_bos_token"), t->n_prefix > 0);
  cs_gguf_write_bool(j->writer, KEY("add_eos_token"), t->n_suffix > 0);
  return status;
}

/* ---- reading back ------------------------------------------------------------------------ */

static bool same_affix(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b) {
  return n_a == n_b && (n_a == 0 || a[0] == b[0]);
}

/* Whether text meets the same pieces and merges. */
static bool is_same(const job *j, const cs_tokenizer *back) {
  const cs_tokenizer *t = j->tokenizer;
  if (back->n_vocab != j->n_tokens ||
      !same_affix(t->prefix, t->n_prefix, back->prefix, back->n_prefix) ||
      !same_affix(t->suffix, t->n_suffix, back->suffix, back->n_suffix))
    return false;
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (piece->type == CS_PIECE_NORMAL && piece->bytes > 0 &&
        cs_tokenizer_find(back, piece->text, piece->bytes) !=
            cs_tokenizer_find(t, piece->text, piece->bytes))
      return false;
  }
  for (size_t i = 0; !j->scores && i < j->n_merges; i++) {
    const cs_merge *merge = &j->merges[i];
    const cs_merge *found = cs_tokenizer_find_merge(back, merge->left, merge->right);
    if (!found || found->merged != merge->merged || found->rank != i) return false;
  }
  return true;
}

static cs_status copy_checked(const job *j, const void *head, size_t bytes, cs_gguf_writer *to) {
  cs_gguf *gguf;
  cs_tokenizer *back = NULL;
  cs_status status = cs_gguf_open_memory("the tokenizer as GGUF", head, bytes, &gguf, j->error);
  if (status != CS_OK) return status;
  status = cs_tokenizer_create(gguf, &back, j->error);
  if (status == CS_OK && !is_same(j, back))
    status =
        refuse(j, "two of its tokens share a spelling, or a merge has a special token, a space "
                  "or more than 512 bytes");
  if (status == CS_OK) cs_gguf_write_metadata_of(to, gguf, NULL, NULL);
  cs_tokenizer_destroy(back);
  cs_gguf_close(gguf);
  return status;
}

cs_status cs_tokenizer_to_gguf(const cs_tokenizer *tokenizer, int32_t pad, uint64_t n_rows,
                               cs_gguf_writer *writer, cs_error *error) {
  job j = {.tokenizer = tokenizer, .error = error, .pad = pad, .n_tokens = tokenizer->n_vocab};
  void *head = NULL;
  size_t bytes;
  if (n_rows > j.n_tokens && n_rows <= INT32_MAX / 4) j.n_tokens = (uint32_t)n_rows;
  j.writer = cs_gguf_writer_create();
  cs_status status = j.writer ? plan(&j) : no_memory(error);
  if (status == CS_OK) status = write_keys(&j);
  if (status == CS_OK) status = cs_gguf_writer_finish(j.writer, &head, &bytes, error);
  if (status == CS_OK) status = copy_checked(&j, head, bytes, writer);
  if (status != CS_OK && error) cs_text_make_printable(error->message); /* it may quote a token */
  free(head);
  free(j.scores);
  free(j.merges);
  cs_gguf_writer_destroy(j.writer);
  return status;
}

/* ---- files ------------------------------------------------------------------------------- */

static int32_t find_pad(const cs_tokenizer *t, const char *folder) {
  char path[4096], *config;
  size_t bytes;
  if (cs_file_beside(folder, "tokenizer_config.json", path, sizeof path) != CS_OK ||
      cs_file_read(path, MAX_CONFIG_BYTES, &config, &bytes, NULL) != CS_OK)
    return -1;
  json_t *root = json_loadb(config, bytes, JSON_ALLOW_NUL, NULL);
  free(config);
  const int32_t id = cs_json_token(t, root, "pad_token");
  json_decref(root);
  return id;
}

cs_status cs_tokenizer_write_gguf(const char *folder, uint64_t n_rows, cs_gguf_writer *writer,
                                  cs_error *error) {
  cs_tokenizer *tokenizer;
  cs_status status = cs_tokenizer_open_json(folder, &tokenizer, error);
  if (status != CS_OK) return status;
  cs_error why = CS_ERROR_INIT;
  status = cs_tokenizer_to_gguf(tokenizer, find_pad(tokenizer, folder), n_rows, writer, &why);
  cs_tokenizer_destroy(tokenizer);
  return status == CS_OK ? CS_OK : cs_error_set(error, status, "tokenizer.json: %s", why.message);
}
