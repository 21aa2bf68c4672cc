/* The performance pass: every op that passed is timed at a representative shape. Not a test: it
 * informs, and fails nothing. */
#ifndef KIT_PERF_H
#define KIT_PERF_H

#include "registry.h"

/* Times what passed on the board, and the plain copy; results go to board->timings. */
void kit_measure(kit *k, const kit_registry *registry);

/* The denominators of the roofline: the larger of the copy and the fastest op seen, in bytes/s,
 * and the fastest op seen in FLOP/s. 0 when nothing was measured. */
void kit_roofline(const kit_board *board, double *bytes_per_s, double *flops_per_s);

/* Share of the time that the roofline allows: max(bytes / B, flops / F) / p50. */
double kit_roofline_fraction(const kit_board *board, const kit_timing *timing);

/* NULL when it was not timed. */
const kit_timing *kit_timing_find(const kit_board *board, uint32_t op_id, uint32_t dtype);

#endif
