/* What the AVX-512 files share. */
#ifndef CPU_AVX512_H
#define CPU_AVX512_H

#include "vector.h"

/* call(rows) with a constant, for up to 12 rows. */
#define PANEL_CASES(call)                                                                          \
  switch (rows) {                                                                                  \
  case 1:                                                                                          \
    call(1);                                                                                       \
    break;                                                                                         \
  case 2:                                                                                          \
    call(2);                                                                                       \
    break;                                                                                         \
  case 3:                                                                                          \
    call(3);                                                                                       \
    break;                                                                                         \
  case 4:                                                                                          \
    call(4);                                                                                       \
    break;                                                                                         \
  case 5:                                                                                          \
    call(5);                                                                                       \
    break;                                                                                         \
  case 6:                                                                                          \
    call(6);                                                                                       \
    break;                                                                                         \
  case 7:                                                                                          \
    call(7);                                                                                       \
    break;                                                                                         \
  case 8:                                                                                          \
    call(8);                                                                                       \
    break;                                                                                         \
  case 9:                                                                                          \
    call(9);                                                                                       \
    break;                                                                                         \
  case 10:                                                                                         \
    call(10);                                                                                      \
    break;                                                                                         \
  case 11:                                                                                         \
    call(11);                                                                                      \
    break;                                                                                         \
  default:                                                                                         \
    call(12);                                                                                      \
  }

#endif
