/* Indexes over a vocabulary, whatever file it came from: spelling to id, pair to merge, spellings
 * in order for the unigram model, and the tokens that are taken whole. Only what text may be made
 * of is found by spelling: a literal "<s>" or "<0x0A>" in a text must not turn into the control or
 * byte token of that spelling. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"

bool cs_id_list_append(cs_id_list *list, int32_t id) {
  if (list->n == list->capacity) {
    const size_t capacity = list->capacity ? 2 * list->capacity : 64;
    int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    if (!ids) return false;
    list->ids = ids;
    list->capacity = capacity;
  }
  list->ids[list->n++] = id;
  return true;
}

/* ---- the alphabet of bytes --------------------------------------------------------------- */

/* Printable Latin-1 stands for itself; the other 68 bytes are U+0100 and up, in order. */
static bool stands_for_itself(uint32_t c) {
  return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

static uint32_t number_of_byte(uint8_t byte) {
  if (byte <= 0x20) return byte;
  return byte < 0xad ? byte - 0x7fu + 0x21 : 67; /* 0x7f to 0xa0, then 0xad */
}

uint32_t cs_byte_character(uint8_t byte, char out[2]) {
  const uint32_t c = stands_for_itself(byte) ? byte : 0x100 + number_of_byte(byte);
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  out[0] = (char)(0xc0 | c >> 6);
  out[1] = (char)(0x80 | (c & 0x3f));
  return 2;
}

int cs_byte_of_character(uint32_t c) {
  if (c < 0x100) return stands_for_itself(c) ? (int)c : -1;
  const uint32_t number = c - 0x100;
  if (number > 67) return -1;
  return number <= 0x20 ? (int)number : number < 67 ? (int)(number - 0x21 + 0x7f) : 0xad;
}

int cs_tokenizer_byte_of_spelling(const cs_piece *piece) {
  unsigned value;
  char end;
  if (piece->bytes != 6 || sscanf(piece->text, "<0x%2X%c", &value, &end) != 2 || end != '>')
    return -1;
  return (int)value;
}

/* ---- spelling to id ---------------------------------------------------------------------- */

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
  if (bytes == 0 || bytes > t->max_piece_bytes) return -1;
  return t->table[find_place(t, text, bytes)];
}

static size_t count_places(size_t n) {
  size_t n_places = 16;
  while (n_places < 2 * n)
    n_places *= 2;
  return n_places;
}

bool cs_tokenizer_index_text(cs_tokenizer *t) {
  const size_t n_places = count_places(t->n_vocab);
  t->table = malloc(n_places * sizeof *t->table);
  if (!t->table) return false;
  memset(t->table, 0xff, n_places * sizeof *t->table);
  t->table_mask = (uint32_t)(n_places - 1);
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (piece->is_text && piece->bytes > 0)
      t->table[find_place(t, piece->text, piece->bytes)] = (int32_t)i; /* of equals the last */
  }
  return true;
}

/* ---- merges ------------------------------------------------------------------------------ */

static cs_merge *find_merge_place(const cs_tokenizer *t, int32_t left, int32_t right) {
  const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  uint32_t place = (uint32_t)(key * 0x9e3779b97f4a7c15u >> 32) & t->merge_mask;
  while (t->merges[place].left >= 0 &&
         (t->merges[place].left != left || t->merges[place].right != right))
    place = (place + 1) & t->merge_mask;
  return &t->merges[place];
}

const cs_merge *cs_tokenizer_find_merge(const cs_tokenizer *t, int32_t left, int32_t right) {
  const cs_merge *found = find_merge_place(t, left, right);
  return found->left >= 0 ? found : NULL;
}

bool cs_tokenizer_index_merges(cs_tokenizer *t, const cs_merge *merges, size_t n_merges) {
  const size_t n_places = count_places(n_merges);
  t->merges = malloc(n_places * sizeof *t->merges);
  if (!t->merges) return false;
  memset(t->merges, 0xff, n_places * sizeof *t->merges);
  t->merge_mask = (uint32_t)(n_places - 1);
  for (size_t i = 0; i < n_merges; i++)
    *find_merge_place(t, merges[i].left, merges[i].right) = merges[i];
  return true;
}

/* ---- spellings in order ------------------------------------------------------------------ */

static int compare_spellings(const void *a, const void *b, void *context) {
  const cs_tokenizer *t = context;
  const cs_piece *left = &t->pieces[*(const int32_t *)a];
  const cs_piece *right = &t->pieces[*(const int32_t *)b];
  const uint32_t bytes = left->bytes < right->bytes ? left->bytes : right->bytes;
  const int order = memcmp(left->text, right->text, bytes);
  if (order) return order;
  if (left->bytes != right->bytes) return left->bytes < right->bytes ? -1 : 1;
  return *(const int32_t *)a < *(const int32_t *)b ? -1 : 1;
}

bool cs_tokenizer_index_unigram(cs_tokenizer *t) {
  double lowest = 0;
  t->sorted = malloc((t->n_vocab + 1) * sizeof *t->sorted);
  if (!t->sorted) return false;
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (piece->score < lowest) lowest = piece->score;
    if (!piece->is_text || piece->bytes == 0) continue;
    t->sorted[t->n_sorted++] = (int32_t)i;
    t->sorted_begin[(uint8_t)piece->text[0] + 1]++;
  }
  for (int i = 0; i < 256; i++)
    t->sorted_begin[i + 1] += t->sorted_begin[i];
  qsort_r(t->sorted, t->n_sorted, sizeof *t->sorted, compare_spellings, t);
  t->unknown_score = lowest - 10.0; /* SentencePiece's penalty */
  return true;
}

/* ---- tokens that are taken whole --------------------------------------------------------- */

static int compare_added(const void *a, const void *b) {
  const cs_added *left = a;
  const cs_added *right = b;
  if (left->match[0] != right->match[0])
    return (uint8_t)left->match[0] < (uint8_t)right->match[0] ? -1 : 1;
  if (left->bytes != right->bytes) return left->bytes > right->bytes ? -1 : 1;
  return left->id < right->id ? -1 : 1;
}

/* What a normalizer makes of the token's spelling is what it is looked for by. */
static cs_status normalize_added(cs_tokenizer *t, cs_added *added, cs_error *error) {
  cs_text text;
  const cs_status status = cs_normalize(&t->normalizers, added->match, added->bytes, &text, error);
  if (status != CS_OK) return status;
  if (text.bytes == 0 || text.bytes > UINT32_MAX) {
    free(text.data);
    return CS_OK;
  }
  t->normalized[t->n_added] = text.data;
  added->match = text.data;
  added->bytes = (uint32_t)text.bytes;
  return CS_OK;
}

cs_status cs_tokenizer_index_added(cs_tokenizer *t, cs_error *error) {
  t->added = malloc((t->n_vocab + 1) * sizeof *t->added);
  t->normalized = calloc(t->n_vocab + 1, sizeof *t->normalized);
  if (!t->added || !t->normalized) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    const cs_piece *piece = &t->pieces[i];
    if (piece->bytes == 0) continue;
    if (piece->type != CS_PIECE_CONTROL && piece->type != CS_PIECE_USER_DEFINED) continue;
    cs_added *added = &t->added[t->n_added];
    *added = (cs_added){piece->text, piece->bytes, (int32_t)i};
    if ((piece->matches & CS_ADDED_NORMALIZED) && t->normalizers.n > 0) {
      const cs_status status = normalize_added(t, added, error);
      if (status != CS_OK) return status;
    }
    t->n_added++;
  }
  qsort(t->added, t->n_added, sizeof *t->added, compare_added);
  for (uint32_t i = 0; i < t->n_added; i++)
    t->added_begin[(uint8_t)t->added[i].match[0] + 1] = i + 1;
  for (int i = 1; i < 257; i++)
    if (t->added_begin[i] < t->added_begin[i - 1]) t->added_begin[i] = t->added_begin[i - 1];
  return CS_OK;
}

void cs_tokenizer_mark_ends(cs_tokenizer *t) {
  static const char *const spellings[] = {
      "<|eot_id|>",    "<|eom_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>",
      "<end_of_turn>", "<|end|>",    "<|eot|>",    "<|return|>",      "<|call|>"};
  if (t->eos >= 0) t->pieces[t->eos].ends = true;
  for (uint32_t i = 0; i < t->n_added; i++) {
    cs_piece *piece = &t->pieces[t->added[i].id];
    for (size_t k = 0; k < sizeof spellings / sizeof spellings[0]; k++)
      if (strcmp(piece->text, spellings[k]) == 0) piece->ends = true;
  }
}
