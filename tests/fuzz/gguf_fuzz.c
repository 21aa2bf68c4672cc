/* Any bytes as a GGUF file: it opens or is refused in one line, and whatever can be asked of an
 * open one lies within it. */
#include "fuzz.h"

#include <string.h>

#include "models/gguf.h"
#include "models/tokenizer.h"

static uint64_t touch_tensors(const cs_gguf *gguf) {
  uint64_t sum = 0;
  for (size_t i = 0; i < cs_gguf_n_tensors(gguf); i++) {
    const cs_gguf_tensor *tensor = cs_gguf_tensor_at(gguf, i);
    const uint8_t *data = tensor->data;
    if (data) sum += (uint64_t)data[0] + data[tensor->bytes - 1];
  }
  return sum;
}

static void use_tokenizer(const cs_gguf *gguf, cs_error *error) {
  cs_tokenizer *tokenizer;
  if (cs_tokenizer_create(gguf, &tokenizer, error) != CS_OK) return;
  const uint32_t n_vocab = cs_tokenizer_n_vocab(tokenizer);
  for (uint32_t i = 0; i < n_vocab; i++)
    FUZZ_CHECK(strlen(cs_tokenizer_piece(tokenizer, (int32_t)i)) <=
               cs_tokenizer_max_piece_bytes(tokenizer));
  cs_tokenizer_destroy(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_gguf *gguf;
  if (cs_gguf_open_memory("input", data, bytes, &gguf, &error) != CS_OK) {
    FUZZ_CHECK(!gguf && strncmp(error.message, "input: ", 7) == 0);
    FUZZ_CHECK(!strchr(error.message, '\n'));
    return 0;
  }
  FUZZ_CHECK(touch_tensors(gguf) != UINT64_MAX);
  use_tokenizer(gguf, &error);
  cs_gguf_close(gguf);
  return 0;
}
