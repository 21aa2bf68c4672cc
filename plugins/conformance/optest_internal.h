/* Shared by the files of the op test. */
#ifndef KIT_OPTEST_INTERNAL_H
#define KIT_OPTEST_INTERNAL_H

#include "optest.h"

/* Byte offset, from the start of the window, of the element with row-major index `index`. */
uint64_t optest_element_offset(const cs_tensor *tensor, uint64_t index);
/* Bytes from the first to the last byte of the window. */
uint64_t optest_window_bytes(const cs_tensor *tensor);

/* Operands in int8 with scales, by row: optest_scaled.c. */
bool optest_is_scaled(const optest *t, uint32_t index);
/* Rounds the operand's values and writes them into the image of before. */
void optest_encode_scaled(optest *t, uint32_t index);
/* The verification sum of what a range used of such a wire. */
uint64_t optest_scaled_wire_sum(const optest *t, const unsigned char *image);
void optest_check_scaled(optest *t, uint32_t index, const char *what);

/* Fills `expected` of the written operands from the values of the others: optest_oracle.c. */
void optest_compute_expected(optest *t);

/* Compares the arena after the run with the expected one: optest_compare.c. */
void optest_compare(optest *t, const char *what);

#endif
