/* Shared by the files of the op test. */
#ifndef KIT_OPTEST_INTERNAL_H
#define KIT_OPTEST_INTERNAL_H

#include "optest.h"

/* Byte offset, from the start of the window, of the element with row-major index `index`. */
uint64_t optest_element_offset(const cs_tensor *tensor, uint64_t index);
/* Bytes from the first to the last byte of the window. */
uint64_t optest_window_bytes(const cs_tensor *tensor);

/* Fills `expected` of the written operands from the values of the others: optest_oracle.c. */
void optest_compute_expected(optest *t);

/* Compares the arena after the run with the expected one: optest_compare.c. */
void optest_compare(optest *t, const char *what);

#endif
