/* The forward pass as an op list: one emission serves prefill, decode and mixed batches. */
#ifndef MODELS_FORWARD_H
#define MODELS_FORWARD_H

#include <stdbool.h>

#include "core/op_list.h"
#include "models/model.h"

/* Keys of CS_VALUE_INPUT; all CS_DTYPE_I32. Padding rows have slot -1 and token -1; sequences that
 * pad have no rows and length 0. */
typedef enum cs_forward_input {
  CS_INPUT_TOKENS,      /* (n_tokens) */
  CS_INPUT_POSITIONS,   /* (n_tokens) */
  CS_INPUT_SLOTS,       /* (n_tokens): block * block_tokens + offset */
  CS_INPUT_BLOCK_TABLE, /* (n_seqs, max_blocks) */
  CS_INPUT_SEQ_OFFSETS, /* (n_seqs + 1) */
  CS_INPUT_KV_LENGTHS,  /* (n_seqs): after this step */
  CS_INPUT_LOGIT_ROWS   /* (n_logit_rows): rows of the batch, -1 for padding */
} cs_forward_input;

/* Keys of CS_VALUE_OUTPUT. */
typedef enum cs_forward_output {
  CS_OUTPUT_LOGITS, /* (n_logit_rows, n_vocab) F32 */
  CS_OUTPUT_ARGMAX  /* (n_logit_rows) I32 */
} cs_forward_output;

/* How far the pass goes. Each is a leading part of the next. */
typedef enum cs_forward_goal {
  CS_FORWARD_KV,     /* ends when the last layer's KV is written: prefill for another device */
  CS_FORWARD_LOGITS, /* logits of the rows asked for */
  CS_FORWARD_ARGMAX  /* and their argmax */
} cs_forward_goal;

typedef struct cs_forward_shape {
  uint32_t n_tokens; /* rows in the batch */
  uint32_t n_seqs;
  uint32_t max_blocks;   /* width of the block table */
  uint32_t n_logit_rows; /* at least 1 unless the goal is CS_FORWARD_KV */
  cs_forward_goal goal;
  bool minimal_ops;   /* no operand outside the op table's minimal column: more ops, same result */
  bool without_marks; /* nobody asks when a layer's KV is written */
  bool read_logits; /* logits are an output; else they are an activation and only argmax is read */
  uint32_t kv_dtype;
  uint32_t kv_layout; /* CS_LAYOUT_KV_* */
  uint32_t kv_block_tokens;
  uint64_t kv_n_blocks;
  const uint8_t *stored_as; /* (CS_DTYPE_LIMIT) by dtype of the file: that of matrices where they
                               run, 0: their own; NULL: all their own */
} cs_forward_shape;

/* Keys of CS_VALUE_CACHE: layer * 2 for K, layer * 2 + 1 for V; dims
 * (kv_n_blocks, kv_block_tokens, n_kv_heads, width). A mark with tag `layer` stands after each
 * layer's kv_write, unless the shape is without them. The list is owned by the caller. */
cs_status cs_forward_emit(const cs_model *model, const cs_forward_shape *shape, cs_op_list **out,
                          cs_error *error);

#endif
