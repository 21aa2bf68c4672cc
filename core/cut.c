/* The list is walked once, following for each value on which device its bytes are current. A read
 * where they are not makes a crossing, and only the first such read: after it both are current.
 *
 * Lifetimes are counted in ops but rounded to whole runs of ops on one device: a download happens
 * at the end of a piece and an upload at its start, and neither must meet another value there.
 *
 * Staging bytes are used again only by a download that is known to come after the upload that
 * reads them: its stream has already waited for a later piece of the uploading device. */
#include "core/cut.h"

#include <stdbool.h>
#include <stdlib.h>

#include "consort/kv.h"
#include "core/arena.h"
#include "core/dtype.h"
#include "core/error.h"

#define NO_OP UINT32_MAX

typedef struct cutter {
  const cs_op_node *ops;
  size_t n_ops;
  const cs_value_info *values;
  size_t n_values;
  const cs_op_mark *marks;
  size_t n_marks;
  const cs_placement *placement;
  cs_cut *out;
  uint32_t *current; /* (n_values): bit CS_PLACE_* where the bytes are the last written */
  size_t crossings_capacity;
} cutter;

cs_status cs_value_bytes(const cs_value_info *value, uint64_t *bytes, cs_error *error) {
  uint64_t n = 1;
  for (uint32_t i = 0; i < value->rank; i++) {
    if (value->dims[i] == 0 || __builtin_mul_overflow(n, value->dims[i], &n)) {
      return cs_error_set(error, CS_OUT_OF_RANGE, "a value with empty or overflowing dimensions");
    }
  }
  const cs_status status = cs_dtype_bytes(value->dtype, n, bytes);
  const uint64_t scales =
      cs_kv_block_scale_bytes(value->dtype, value->layout, value->rank, value->dims);
  if (status == CS_OK && scales &&
      (scales > UINT64_MAX / value->dims[0] ||
       __builtin_add_overflow(*bytes, scales * value->dims[0], bytes)))
    return cs_error_set(error, CS_OUT_OF_RANGE, "a KV plane of overflowing size");
  if (status == CS_OK) return CS_OK;
  return cs_error_set(error, status, "a value of %llu elements of dtype %u", (unsigned long long)n,
                      value->dtype);
}

static cs_status no_memory(cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory to cut an op list");
}

/* ---- pieces ---- */

static void make_pieces(cutter *c) {
  cs_cut *out = c->out;
  uint32_t mark = 0;
  for (uint32_t i = 0; i < c->n_ops; i++) {
    const uint32_t place = c->placement->places[i];
    cs_piece *last = out->n_pieces ? &out->pieces[out->n_pieces - 1] : NULL;
    const bool same_device = last && last->place == place;
    if (!same_device || last->n_marks > 0) {
      cs_piece *piece = &out->pieces[out->n_pieces++];
      *piece = (cs_piece){.place = place,
                          .first_op = i,
                          .first_mark = mark,
                          .wait_piece = CS_PIECE_NONE,
                          .segment_first_op = same_device ? last->segment_first_op : i};
      last = piece;
    }
    last->n_ops++;
    out->used_places |= 1u << place;
    while (mark < c->n_marks && c->marks[mark].after_op == i) {
      last->n_marks++;
      mark++;
    }
  }
  for (size_t k = out->n_pieces; k-- > 0;) {
    cs_piece *piece = &out->pieces[k];
    const bool continues = k + 1 < out->n_pieces && out->pieces[k + 1].place == piece->place;
    piece->segment_last_op =
        continues ? out->pieces[k + 1].segment_last_op : piece->first_op + piece->n_ops - 1;
  }
}

/* ---- values ---- */

static void live(cs_value_life *life, uint32_t place, uint32_t first, uint32_t last) {
  if (life->first[place] == NO_OP || first < life->first[place]) life->first[place] = first;
  if (life->last[place] == NO_OP || last > life->last[place]) life->last[place] = last;
}

static cs_status add_crossing(cutter *c, cs_value v, uint32_t to_piece, cs_error *error) {
  cs_cut *out = c->out;
  if (out->n_crossings == c->crossings_capacity) {
    const size_t capacity = c->crossings_capacity ? c->crossings_capacity * 2 : 64;
    cs_crossing *bigger = realloc(out->crossings, capacity * sizeof *bigger);
    if (!bigger) return no_memory(error);
    out->crossings = bigger;
    c->crossings_capacity = capacity;
  }
  cs_crossing *crossing = &out->crossings[out->n_crossings++];
  *crossing =
      (cs_crossing){.value = v, .from_piece = out->lives[v].writer_piece, .to_piece = to_piece};
  cs_piece *from = &out->pieces[crossing->from_piece];
  cs_piece *to = &out->pieces[to_piece];
  from->n_out++;
  if (to->wait_piece == CS_PIECE_NONE || to->wait_piece < crossing->from_piece) {
    to->wait_piece = crossing->from_piece;
  }
  live(&out->lives[v], from->place, from->segment_last_op, from->segment_last_op);
  live(&out->lives[v], to->place, to->segment_first_op, to->segment_first_op);
  return cs_value_bytes(&c->values[v], &crossing->bytes, error);
}

static cs_status bad_value(const cutter *c, uint32_t op, uint32_t operand, const char *what,
                           cs_error *error) {
  cs_error_set(error, CS_INVALID_ARGUMENT, "op %u %s: operand %u %s", op, cs_op_name(c->ops[op].id),
               operand, what);
  if (error) error->op_index = (int32_t)op;
  return CS_INVALID_ARGUMENT;
}

static cs_status read_operand(cutter *c, uint32_t op, uint32_t operand, uint32_t piece,
                              cs_error *error) {
  const cs_value v = c->ops[op].operands[operand];
  const uint32_t place = c->out->pieces[piece].place;
  switch (c->values[v].kind) {
  case CS_VALUE_INPUT:
    c->out->input_places |= 1u << place;
    return CS_OK;
  case CS_VALUE_WEIGHT:
  case CS_VALUE_CACHE:
    return CS_OK;
  default:
    break;
  }
  if (!c->current[v]) return bad_value(c, op, operand, "is read before it is written", error);
  live(&c->out->lives[v], place, op, op);
  if (c->current[v] & 1u << place) return CS_OK;
  c->current[v] |= 1u << place;
  return add_crossing(c, v, piece, error);
}

static cs_status write_operand(cutter *c, uint32_t op, uint32_t operand, uint32_t piece,
                               cs_error *error) {
  const cs_value v = c->ops[op].operands[operand];
  const cs_value_kind kind = c->values[v].kind;
  const uint32_t place = c->out->pieces[piece].place;
  if (kind == CS_VALUE_CACHE) return CS_OK;
  if (kind != CS_VALUE_ACTIVATION && kind != CS_VALUE_OUTPUT) {
    return bad_value(c, op, operand, "is written but not writable", error);
  }
  c->current[v] = 1u << place;
  c->out->lives[v].writer_piece = piece;
  live(&c->out->lives[v], place, op, kind == CS_VALUE_OUTPUT ? (uint32_t)c->n_ops : op);
  return CS_OK;
}

static cs_status follow_op(cutter *c, uint32_t op, uint32_t piece, cs_error *error) {
  const cs_op_node *node = &c->ops[op];
  const uint32_t written = cs_op_written_operands(node->id);
  for (uint32_t writing = 0; writing < 2; writing++) {
    for (uint32_t j = 0; j < node->n_operands; j++) {
      if (node->operands[j] == CS_VALUE_NONE || (written >> j & 1u) != writing) continue;
      const cs_status status =
          writing ? write_operand(c, op, j, piece, error) : read_operand(c, op, j, piece, error);
      if (status != CS_OK) return status;
    }
  }
  return CS_OK;
}

static cs_status follow_values(cutter *c, cs_error *error) {
  for (uint32_t k = 0; k < c->out->n_pieces; k++) {
    const cs_piece *piece = &c->out->pieces[k];
    for (uint32_t op = piece->first_op; op < piece->first_op + piece->n_ops; op++) {
      const cs_status status = follow_op(c, op, k, error);
      if (status != CS_OK) return status;
    }
  }
  for (size_t v = 0; v < c->n_values; v++) {
    if (c->values[v].kind != CS_VALUE_OUTPUT || c->current[v]) continue;
    return cs_error_set(error, CS_INVALID_ARGUMENT, "output %u is never written", c->values[v].key);
  }
  return CS_OK;
}

/* ---- staging ---- */

typedef struct region {
  uint64_t offset;
  uint64_t bytes;
  uint32_t to_piece; /* of the crossing that used it last */
} region;

/* The smallest region of enough bytes whose upload is known to be over; NULL when none is. */
static region *find_region(const cutter *c, region *regions, size_t n, uint64_t bytes,
                           uint32_t place, uint32_t seen) {
  region *best = NULL;
  for (size_t i = 0; i < n; i++) {
    if (regions[i].bytes < bytes) continue;
    if (c->out->pieces[regions[i].to_piece].place == place || regions[i].to_piece >= seen) continue;
    if (!best || regions[i].bytes < best->bytes) best = &regions[i];
  }
  return best;
}

/* Crossings leave in the order of their from_piece; `seen` of a device is one more than the last
 * piece of the other device that it has waited for. */
static cs_status assign_staging(cutter *c, cs_error *error) {
  cs_cut *out = c->out;
  region *regions = calloc(out->n_crossings + 1, sizeof *regions);
  if (!regions) return no_memory(error);
  size_t n_regions = 0;
  uint32_t seen[CS_N_PLACES] = {0};
  for (uint32_t k = 0; k < out->n_pieces; k++) {
    const cs_piece *piece = &out->pieces[k];
    uint32_t *seen_here = &seen[piece->place];
    if (piece->wait_piece != CS_PIECE_NONE && piece->wait_piece + 1 > *seen_here) {
      *seen_here = piece->wait_piece + 1;
    }
    for (size_t i = 0; piece->n_out > 0 && i < out->n_crossings; i++) {
      cs_crossing *crossing = &out->crossings[i];
      if (crossing->from_piece != k) continue;
      region *r = find_region(c, regions, n_regions, crossing->bytes, piece->place, *seen_here);
      if (!r) {
        r = &regions[n_regions++];
        *r = (region){.offset = out->staging_bytes, .bytes = cs_arena_round(crossing->bytes)};
        out->staging_bytes += r->bytes;
      }
      r->to_piece = crossing->to_piece;
      crossing->staging_offset = r->offset;
    }
  }
  free(regions);
  return CS_OK;
}

/* ---- whole ---- */

cs_status cs_cut_list(const cs_op_list *list, const cs_placement *placement, cs_cut *out,
                      cs_error *error) {
  cutter c = {.ops = cs_op_list_ops(list),
              .n_ops = cs_op_list_n_ops(list),
              .values = cs_op_list_values(list),
              .n_values = cs_op_list_n_values(list),
              .marks = cs_op_list_marks(list),
              .n_marks = cs_op_list_n_marks(list),
              .placement = placement,
              .out = out};
  *out = (cs_cut){0};
  if (c.n_ops == 0 || c.n_ops > placement->n_ops) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a list of %zu ops under a placement of %zu",
                        c.n_ops, placement->n_ops);
  }
  out->pieces = calloc(c.n_ops, sizeof *out->pieces);
  out->lives = calloc(c.n_values + 1, sizeof *out->lives);
  c.current = calloc(c.n_values + 1, sizeof *c.current);
  cs_status status = CS_OK;
  if (!out->pieces || !out->lives || !c.current) status = no_memory(error);
  if (status == CS_OK) {
    for (size_t v = 0; v < c.n_values; v++)
      out->lives[v] = (cs_value_life){{NO_OP, NO_OP}, {NO_OP, NO_OP}, CS_PIECE_NONE};
    make_pieces(&c);
    status = follow_values(&c, error);
  }
  if (status == CS_OK) status = assign_staging(&c, error);
  free(c.current);
  return status;
}

void cs_cut_finish(cs_cut *cut) {
  free(cut->pieces);
  free(cut->crossings);
  free(cut->lives);
  *cut = (cs_cut){0};
}
