/* The choices are llama.cpp's (src/llama-quant.cpp), so that a file named for a type holds what
 * readers and their users expect of the name: values and half of the down projections decide most
 * of the error, and the output matrix is large in no model but matters in all. */
#include "models/quantize_mix.h"

#include <string.h>
#include <strings.h>

#include "core/dtype.h"
#include "models/gguf_internal.h"

static const cs_quantize_type types[] = {
    {"Q8_0", CS_DTYPE_Q8_0, 7},
    {"Q4_0", CS_DTYPE_Q4_0, 2},
    {"Q4_K_M", CS_DTYPE_Q4_K, 15},
    {"Q6_K", CS_DTYPE_Q6_K, 18},
};

const cs_quantize_type *cs_quantize_type_find(const char *name) {
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
    if (strcasecmp(types[i].name, name) == 0) return &types[i];
  return NULL;
}

/* Splits "blk.7.ffn_down.weight"; layer -1 and the whole name outside the layers. */
static cs_gguf_string split_name(cs_gguf_string name, int64_t *layer) {
  *layer = -1;
  if (name.bytes < 6 || memcmp(name.data, "blk.", 4) != 0) return name;
  size_t at = 4;
  int64_t number = 0;
  while (at < name.bytes && at < 14 && name.data[at] >= '0' && name.data[at] <= '9')
    number = number * 10 + (name.data[at++] - '0');
  if (at == 4 || at == name.bytes || name.data[at] != '.') return name;
  *layer = number;
  return (cs_gguf_string){name.data + at + 1, name.bytes - at - 1};
}

static bool is(cs_gguf_string name, const char *text) {
  return cs_gguf_compare_strings(name, (cs_gguf_string){text, strlen(text)}) == 0;
}

/* The first and last eighth of the layers, and every third between. */
static bool wants_more_bits(int64_t layer, int64_t n_layers) {
  const int64_t eighth = n_layers / 8;
  return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

/* Rows that are no whole number of blocks take a format of shorter blocks and no fewer bits. */
static uint32_t fit_rows(uint32_t dtype, uint64_t row) {
  static const struct {
    uint32_t from;
    uint32_t to;
  } shorter[] = {{CS_DTYPE_Q4_K, CS_DTYPE_Q5_0},
                 {CS_DTYPE_Q5_K, CS_DTYPE_Q5_1},
                 {CS_DTYPE_Q6_K, CS_DTYPE_Q8_0}};
  for (size_t i = 0; i < sizeof shorter / sizeof shorter[0]; i++)
    if (dtype == shorter[i].from && row % cs_dtype_find(dtype)->block_elements != 0)
      dtype = shorter[i].to;
  return row % cs_dtype_find(dtype)->block_elements == 0 ? dtype : CS_DTYPE_F16;
}

static uint32_t choose_matrix(const cs_quantize_type *type, const cs_quantize_model *model,
                              cs_gguf_string name, int64_t layer) {
  const bool mixed = type->file_type == 15;
  const bool eight = model->n_experts == 8;
  const bool is_output =
      is(name, "output.weight") || (model->tied && is(name, "token_embd.weight"));
  if (is_output) return type->dtype == CS_DTYPE_Q8_0 ? CS_DTYPE_Q8_0 : CS_DTYPE_Q6_K;
  if ((is(name, "attn_v.weight") || is(name, "attn_k.weight")) && eight) return CS_DTYPE_Q8_0;
  if (!mixed) return type->dtype;
  const bool more = wants_more_bits(layer, model->n_layers);
  if (is(name, "attn_v.weight"))
    return more ? CS_DTYPE_Q6_K : model->is_70b ? CS_DTYPE_Q5_K : type->dtype;
  if ((is(name, "ffn_down.weight") || is(name, "ffn_down_exps.weight")) && more)
    return CS_DTYPE_Q6_K;
  if (is(name, "attn_output.weight") && eight) return CS_DTYPE_Q5_K;
  return type->dtype;
}

uint32_t cs_quantize_choose(const cs_quantize_type *type, const cs_quantize_model *model,
                            const cs_gguf_tensor *tensor) {
  int64_t layer;
  const cs_gguf_string name = split_name(tensor->name, &layer);
  if (tensor->rank < 2 || is(name, "ffn_gate_inp.weight")) return CS_DTYPE_F32;
  const uint32_t dtype = choose_matrix(type, model, name, layer);
  return fit_rows(dtype, tensor->dims[tensor->rank - 1]);
}
