/* GGUF's number formats on the host: what a block means, and how to make one. */
#ifndef MODELS_BLOCKS_H
#define MODELS_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"
#include "consort/types.h"

/* Decodes n elements, whole blocks of `dtype` (F32, F16, BF16, Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL,
 * IQ4_XS). Every product and sum is rounded to float32 in the order that ggml's reference has, so
 * that the bits are equal. CS_UNSUPPORTED for another dtype. Formulas: ggml-quants.c of
 * github.com/ggml-org/ggml. */
cs_status cs_blocks_decode(uint32_t dtype, const void *from, size_t n, float *to);

/* Encodes n finite elements, whole blocks of `dtype` (F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q5_1, Q4_K,
 * Q5_K, Q6_K), each block with a small squared error. CS_UNSUPPORTED for another dtype. */
cs_status cs_blocks_encode(uint32_t dtype, const float *from, size_t n, void *to);

/* Whether cs_blocks_encode knows it. */
bool cs_blocks_can_encode(uint32_t dtype);

/* The eight six-bit scales and minima of a Q4_K or Q5_K block, packed in 12 bytes. */
void cs_blocks_unpack_scales(const uint8_t packed[12], uint8_t scales[8], uint8_t minima[8]);
void cs_blocks_pack_scales(const uint8_t scales[8], const uint8_t minima[8], uint8_t packed[12]);

#endif
