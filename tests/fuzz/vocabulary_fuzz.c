/* Any bytes as a GGUF file's tokenizer metadata of every kind: what opens encodes a text to ids of
 * its vocabulary. The bytes are what follows a header that makes them a byte-level or a unigram
 * vocabulary, so that they get past the first checks. */
#include "fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/tokenizer.h"

typedef struct input {
  const uint8_t *data;
  size_t bytes;
} input;

static uint8_t take(input *in) {
  if (in->bytes == 0) return 0;
  in->bytes--;
  return *in->data++;
}

/* A string of up to 15 of the input's bytes. */
static void put_some(bytes *to, input *in) {
  const uint8_t n = take(in) & 15;
  put_u64(to, n);
  for (uint8_t i = 0; i < n; i++)
    put(to, &(uint8_t){take(in)}, 1);
}

static void add_vocabulary_of(gguf_builder *g, input *in, bool unigram) {
  static const char *const names[] = {"gpt-2",  "llama-bpe",   "qwen2",  "deepseek-llm",
                                      "falcon", "deepseek-v3", "tekken", "bloom"};
  const uint32_t n = 3 + (take(in) & 31);
  add_text(g, "tokenizer.ggml.model", unigram ? "t5" : "gpt2");
  add_text(g, "tokenizer.ggml.pre", names[take(in) & 7]);
  add_bool(g, "tokenizer.ggml.remove_extra_whitespaces", take(in) & 1);
  add_u32(g, "tokenizer.ggml.unknown_token_id", take(in) & 3);
  add_array(g, "tokenizer.ggml.tokens", 8, n);
  for (uint32_t i = 0; i < n; i++)
    put_some(&g->keys, in);
  add_array(g, "tokenizer.ggml.token_type", 5, n);
  for (uint32_t i = 0; i < n; i++)
    put_u32(&g->keys, take(in) & 7);
  add_array(g, "tokenizer.ggml.scores", 6, n);
  for (uint32_t i = 0; i < n; i++)
    put(&g->keys, &(float){-(float)take(in)}, 4);
  const uint32_t n_merges = take(in) & 31;
  add_array(g, "tokenizer.ggml.merges", 8, n_merges);
  for (uint32_t i = 0; i < n_merges; i++)
    put_some(&g->keys, in);
  const uint32_t n_map = take(in);
  add_array(g, "tokenizer.ggml.precompiled_charsmap", 0, n_map);
  for (uint32_t i = 0; i < n_map; i++)
    put(&g->keys, &(uint8_t){take(in)}, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  input in = {data, n_bytes};
  gguf_builder g = {0};
  cs_gguf *gguf;
  cs_tokenizer *t;
  cs_error error = CS_ERROR_INIT;
  add_vocabulary_of(&g, &in, take(&in) & 1);
  const bytes file = finish_gguf(&g);
  FUZZ_CHECK(cs_gguf_open_memory("input", file.data, file.n, &gguf, NULL) == CS_OK);
  if (cs_tokenizer_create(gguf, &t, &error) == CS_OK) {
    int32_t *ids;
    size_t n;
    const cs_status status =
        cs_tokenizer_encode(t, (const char *)in.data, in.bytes, 1, &ids, &n, &error);
    for (size_t i = 0; status == CS_OK && i < n; i++)
      FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < cs_tokenizer_n_vocab(t));
    if (status == CS_OK) free(ids);
    cs_tokenizer_destroy(t);
  } else {
    FUZZ_CHECK(strncmp(error.message, "input: ", 7) == 0 && !strchr(error.message, '\n'));
  }
  cs_gguf_close(gguf);
  free(file.data);
  return 0;
}
