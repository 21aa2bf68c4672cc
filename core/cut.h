/* Cutting an op list into pieces: what runs on which device between two points where something
 * happens besides ops (the device changes, a mark is announced). Private to the executor. */
#ifndef CORE_CUT_H
#define CORE_CUT_H

#include <stddef.h>
#include <stdint.h>

#include "core/op_list.h"
#include "core/placement_private.h"

#define CS_PIECE_NONE UINT32_MAX

typedef struct cs_piece {
  uint32_t place; /* CS_PLACE_* */
  uint32_t first_op;
  uint32_t n_ops;
  uint32_t first_mark; /* the marks announced at its end */
  uint32_t n_marks;
  uint32_t wait_piece;       /* the last piece elsewhere whose values it reads; CS_PIECE_NONE */
  uint32_t n_out;            /* crossings that leave it */
  uint32_t segment_first_op; /* of the run of pieces on the same device */
  uint32_t segment_last_op;
} cs_piece;

/* A value that is made on one device and read on the other: downloaded to the staging area at the
 * end of from_piece, uploaded from there at the start of to_piece. */
typedef struct cs_crossing {
  cs_value value;
  uint32_t from_piece;
  uint32_t to_piece;
  uint64_t bytes;
  uint64_t staging_offset;
} cs_crossing;

/* Where and how long a value needs bytes in an arena; UINT32_MAX: not at all. */
typedef struct cs_value_life {
  uint32_t first[CS_N_PLACES];
  uint32_t last[CS_N_PLACES];
  uint32_t writer_piece; /* the last piece that writes it; CS_PIECE_NONE */
} cs_value_life;

typedef struct cs_cut {
  size_t n_pieces;
  cs_piece *pieces;
  size_t n_crossings;
  cs_crossing *crossings; /* by to_piece, ascending */
  cs_value_life *lives;   /* (n_values) */
  uint64_t staging_bytes;
  uint32_t input_places; /* bit CS_PLACE_*: some op there reads an INPUT */
  uint32_t used_places;  /* bit CS_PLACE_*: some op runs there */
} cs_cut;

/* CS_INVALID_ARGUMENT names op and value when one is read before it is written, when an input or
 * a weight is written, or when an output never is. Free *out with cs_cut_finish, also after a
 * failure. */
cs_status cs_cut_list(const cs_op_list *list, const cs_placement *placement, cs_cut *out,
                      cs_error *error);
void cs_cut_finish(cs_cut *cut);

/* Bytes of a value's elements without gaps. */
cs_status cs_value_bytes(const cs_value_info *value, uint64_t *bytes, cs_error *error);

#endif
