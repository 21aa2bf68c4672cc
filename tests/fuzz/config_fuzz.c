/* Fuzz target: any bytes as config.json, up to the configuration that the forward pass reads. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "models/architecture.h"
#include "models/huggingface_internal.h"
#include "models/json.h"

static void read_back(const void *head, size_t bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_gguf *gguf;
  FUZZ_CHECK(cs_gguf_open_memory("head", head, bytes, &gguf, &error) == CS_OK);
  cs_gguf_string name;
  FUZZ_CHECK(cs_gguf_get_string(gguf, "general.architecture", &name));
  const cs_architecture *architecture = cs_architecture_find(name);
  FUZZ_CHECK(architecture);
  cs_model_config config;
  cs_rope_scaling scaling;
  if (cs_architecture_read_config(architecture, gguf, &config, &scaling, &error) == CS_OK) {
    FUZZ_CHECK(config.n_layers && config.n_heads % config.n_kv_heads == 0);
    float table[64];
    if (config.n_rot <= 128)
      cs_rope_inv_freq(&scaling, config.rope_base, config.n_rot, NULL, table);
  } else {
    FUZZ_CHECK(error.message[0] != '\0' && !strchr(error.message, '\n'));
  }
  cs_gguf_close(gguf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  cs_error error = CS_ERROR_INIT;
  json_t *config;
  if (cs_json_parse("config.json", data, bytes, &config, &error) != CS_OK) {
    FUZZ_CHECK(!config && error.message[0] != '\0' && !strchr(error.message, '\n'));
    return 0;
  }
  cs_gguf_writer *writer = cs_gguf_writer_create();
  cs_huggingface_shape shape;
  void *head;
  size_t head_bytes;
  if (writer &&
      cs_huggingface_write_config("config.json", config, writer, &shape, &error) == CS_OK &&
      cs_gguf_writer_finish(writer, &head, &head_bytes, &error) == CS_OK) {
    read_back(head, head_bytes);
    free(head);
  }
  cs_gguf_writer_destroy(writer);
  json_decref(config);
  return 0;
}
