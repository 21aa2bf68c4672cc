/* Any bytes as a tokenizer.json, with a text behind a zero byte: it is read or refused in one line;
 * what is read encodes the text to ids of its vocabulary, and they decode within their bound; it is
 * written as GGUF metadata or refused in one line. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "models/tokenizer_gguf.h"

static void encode(const cs_tokenizer *t, const char *text, size_t bytes) {
  int32_t *ids;
  size_t n;
  cs_error error = CS_ERROR_INIT;
  for (uint32_t special = 0; special <= CS_ENCODE_MARKED; special++) {
    if (cs_tokenizer_encode(t, text, bytes, special, &ids, &n, &error) != CS_OK) {
      FUZZ_CHECK(!ids && error.message[0] && !strchr(error.message, '\n'));
      continue;
    }
    const size_t room = cs_tokenizer_max_piece_bytes(t);
    char *out = malloc(room + 1);
    FUZZ_CHECK(out);
    cs_detokenizer d;
    cs_detokenizer_init(&d, t, true, special != 0);
    for (size_t i = 0; i < n; i++) {
      FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < cs_tokenizer_n_vocab(t));
      FUZZ_CHECK(cs_detokenizer_push(&d, ids[i], out, room) <= room);
    }
    FUZZ_CHECK(cs_detokenizer_flush(&d, out, room) <= room);
    free(out);
    free(ids);
  }
}

static void write_metadata(const cs_tokenizer *t) {
  cs_error error = CS_ERROR_INIT;
  cs_gguf_writer *writer = cs_gguf_writer_create();
  FUZZ_CHECK(writer);
  if (cs_tokenizer_to_gguf(t, -1, 0, writer, &error) != CS_OK)
    FUZZ_CHECK(error.message[0] && !strchr(error.message, '\n'));
  cs_gguf_writer_destroy(writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_tokenizer *t;
  const uint8_t *end = n_bytes ? memchr(data, 0, n_bytes) : NULL;
  const size_t json_bytes = end ? (size_t)(end - data) : n_bytes;
  if (cs_tokenizer_create_json("input", (const char *)data, json_bytes, NULL, 0, &t, &error) !=
      CS_OK) {
    FUZZ_CHECK(!t && strncmp(error.message, "input: ", 7) == 0);
    FUZZ_CHECK(!strchr(error.message, '\n'));
    return 0;
  }
  const size_t rest = end ? n_bytes - json_bytes - 1 : 0;
  encode(t, end ? (const char *)end + 1 : "a b", end ? rest : 3);
  write_metadata(t);
  cs_tokenizer_destroy(t);
  return 0;
}
