/* Number formats: sizes, names, and conversion to and from float64. */
#ifndef KIT_FORMAT_H
#define KIT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rng.h"

/* "f32", "q8_0"; "?" outside the table. */
const char *format_name(uint32_t dtype);
uint32_t format_block_elements(uint32_t dtype); /* 1 for plain formats */
size_t format_bytes(uint32_t dtype, uint64_t n_elements);

/* A plain number (F32, F16, BF16, F8_E4M3, I8, U8, I32) to float64 and, rounded to nearest even,
 * back. U64 is carried as the double with the same bits. */
double format_decode(uint32_t dtype, const void *from);
void format_encode(uint32_t dtype, void *to, double value);

/* Random blocks of a block format: every stored bit may be set, scales are finite and make weights
 * of the order of 1. n_elements is a whole number of blocks. */
void format_random_blocks(uint32_t dtype, kit_rng *rng, void *to, uint64_t n_elements);
/* Multiplies every weight of a block format by `factor`, through the scales. */
void format_scale_blocks(uint32_t dtype, void *blocks, uint64_t n_elements, double factor);
/* The weights that blocks stand for, by GGUF's definition of the format. */
void format_dequantize(uint32_t dtype, const void *from, double *to, uint64_t n_elements);

#endif
