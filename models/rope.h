/* RoPE's inverse frequencies, with the scalings that stretch a model past the context it was
 * trained for. */
#ifndef MODELS_ROPE_H
#define MODELS_ROPE_H

#include "models/config_reader.h"

typedef enum cs_rope_scaling_kind {
  CS_ROPE_SCALING_NONE,
  CS_ROPE_SCALING_LINEAR, /* positions divided by factor */
  CS_ROPE_SCALING_LLAMA3, /* low frequencies divided, high ones kept, smooth between */
  CS_ROPE_SCALING_YARN    /* the same by rotations in the original context, and a magnitude */
} cs_rope_scaling_kind;

/* Fields that a kind does not use are 0. */
typedef struct cs_rope_scaling {
  cs_rope_scaling_kind kind;
  double factor;
  double original_context; /* tokens (LLAMA3, YARN) */
  double low_freq_factor;  /* LLAMA3 */
  double high_freq_factor; /* LLAMA3 */
  double beta_fast;        /* YARN: rotations from which on a frequency is kept */
  double beta_slow;        /* YARN: and below which it is divided by factor */
  double attention_factor; /* YARN: multiplies 1 + 0.1 ln(factor) */
} cs_rope_scaling;

/* Reads "PREFIX.rope.scaling.*". n_context is the original context where the file names none.
 * CS_UNSUPPORTED names a type that is not served, CS_CORRUPT a key out of its range. */
cs_status cs_rope_read_scaling(cs_config_reader *reader, uint32_t n_context,
                               cs_rope_scaling *scaling);

/* table[i] for pair i of n_rot / 2: base^(-2i / n_rot), scaled, and divided by factors[i] (NULL:
 * none). Computed in float64 and rounded once. Sources: "YaRN" (Peng et al. 2023, arXiv
 * 2309.00071) section 3.4 for YARN; Meta's Llama 3.1 reference model for LLAMA3. */
void cs_rope_inv_freq(const cs_rope_scaling *scaling, double base, uint32_t n_rot,
                      const float *factors, float *table);

/* What every turned element is multiplied by; 1 but for YARN. */
double cs_rope_magnitude(const cs_rope_scaling *scaling);

#endif
