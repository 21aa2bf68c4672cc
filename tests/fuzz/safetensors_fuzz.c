/* Fuzz target: any bytes as a safetensors file. What opens must have every byte of every tensor. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "models/safetensors.h"

static uint64_t touch(const cs_safetensors *file) {
  uint64_t sum = 0;
  for (size_t i = 0; i < cs_safetensors_n_tensors(file); i++) {
    const cs_safetensor *tensor = cs_safetensors_at(file, i);
    FUZZ_CHECK(tensor->rank >= 1 && tensor->rank <= CS_MAX_RANK);
    sum += strlen(tensor->name);
    const unsigned char *bytes = tensor->data;
    for (uint64_t b = 0; b < tensor->bytes; b++)
      sum += bytes[b];
  }
  return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  uint8_t *copy = malloc(bytes ? bytes : 1); /* aligned as a mapping is */
  if (!copy) return 0;
  if (bytes) memcpy(copy, data, bytes);
  cs_error error = CS_ERROR_INIT;
  cs_safetensors *file;
  if (cs_safetensors_open_memory("input", copy, bytes, &file, &error) == CS_OK) {
    FUZZ_CHECK(touch(file) != UINT64_MAX);
    cs_safetensors_close(file);
  } else {
    FUZZ_CHECK(file == NULL && error.message[0] != '\0' && !strchr(error.message, '\n'));
  }
  free(copy);
  return 0;
}
