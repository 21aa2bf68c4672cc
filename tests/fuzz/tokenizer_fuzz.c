/* The input is a small vocabulary and a text: the text is encoded, the ids are in the vocabulary,
 * and they decode to the text again where no control token or literal space mark stood in it. */
#include "fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/tokenizer.h"

#define N_FIXED 260 /* <unk>, <s>, </s>, the bytes, the space mark */
#define N_EXTRA 8

typedef struct input {
  const uint8_t *data;
  size_t bytes;
} input;

static uint8_t take(input *in) {
  if (in->bytes == 0) return 0;
  in->bytes--;
  return *in->data++;
}

/* What every vocabulary has and N_EXTRA pieces of the fuzzer's own, of up to 7 bytes. */
static void add_fuzzed_vocabulary(gguf_builder *g, input *in) {
  char spelling[16];
  int32_t types[N_EXTRA];
  float scores[N_EXTRA];
  const uint32_t n = N_FIXED + N_EXTRA;
  add_text(g, "tokenizer.ggml.model", "llama");
  add_bool(g, "tokenizer.ggml.add_space_prefix", take(in) & 1);
  add_array(g, "tokenizer.ggml.tokens", 8, n);
  put_text(&g->keys, "<unk>");
  put_text(&g->keys, "<s>");
  put_text(&g->keys, "</s>");
  for (unsigned i = 0; i < 256; i++) {
    snprintf(spelling, sizeof spelling, "<0x%02X>", i);
    put_text(&g->keys, spelling);
  }
  put_text(&g->keys, SPACE);
  for (int i = 0; i < N_EXTRA; i++) {
    const uint8_t shape = take(in);
    put_u64(&g->keys, shape & 7);
    for (int k = 0; k < (shape & 7); k++)
      put(&g->keys, &(uint8_t){take(in)}, 1);
    types[i] = shape & 8 ? 4 : 1;
    scores[i] = (float)(shape >> 4);
  }
  add_array(g, "tokenizer.ggml.scores", 6, n);
  for (uint32_t i = 0; i < n; i++)
    put(&g->keys, i < N_FIXED ? &(float){0} : &scores[i - N_FIXED], 4);
  add_array(g, "tokenizer.ggml.token_type", 5, n);
  for (uint32_t i = 0; i < n; i++)
    put_u32(&g->keys, i == 0             ? 2
                      : i < 3            ? 3
                      : i < N_FIXED - 1  ? 6
                      : i == N_FIXED - 1 ? 1
                                         : (uint32_t)types[i - N_FIXED]);
}

static void round_trip(const cs_tokenizer *t, const input *text, bool special) {
  int32_t *ids;
  size_t n_ids;
  FUZZ_CHECK(cs_tokenizer_encode(t, (const char *)text->data, text->bytes, special, &ids, &n_ids,
                                 NULL) == CS_OK);
  const size_t room = cs_tokenizer_max_piece_bytes(t) + 8;
  char *out = malloc((n_ids + 1) * room);
  FUZZ_CHECK(out);
  cs_detokenizer d;
  cs_detokenizer_init(&d, t, true, false);
  size_t n = 0;
  for (size_t i = 0; i < n_ids; i++) {
    FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < cs_tokenizer_n_vocab(t));
    const size_t written = cs_detokenizer_push(&d, ids[i], out + n, room);
    FUZZ_CHECK(written <= room);
    n += written;
  }
  n += cs_detokenizer_flush(&d, out + n, room);
  const bool has_mark = memmem(text->data, text->bytes, SPACE, 3) != NULL;
  if (!special && !has_mark)
    FUZZ_CHECK(n == text->bytes && (n == 0 || memcmp(out, text->data, n) == 0));
  free(out);
  free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  input in = {data, n_bytes};
  gguf_builder g = {0};
  add_fuzzed_vocabulary(&g, &in);
  const bytes file = finish_gguf(&g);
  cs_gguf *gguf;
  cs_tokenizer *tokenizer;
  FUZZ_CHECK(cs_gguf_open_memory("vocabulary", file.data, file.n, &gguf, NULL) == CS_OK);
  FUZZ_CHECK(cs_tokenizer_create(gguf, &tokenizer, NULL) == CS_OK);
  round_trip(tokenizer, &in, false);
  round_trip(tokenizer, &in, true);
  cs_tokenizer_destroy(tokenizer);
  cs_gguf_close(gguf);
  free(file.data);
  return 0;
}
