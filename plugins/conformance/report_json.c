/* JSON as the program's other commands print it; what programs read, so every field is always
 * there, null where nothing was measured. */
#include <jansson.h>

#include "format.h"
#include "optest.h"
#include "perf.h"
#include "report.h"

static json_t *number_or_null(double value, bool is_there) {
  return is_there ? json_real(value) : json_null();
}

static json_t *timing_json(const report *r, const kit_timing *t) {
  return json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "op", op_name(t->op_id), "dtype",
                   format_name(t->dtype), "shape", t->shape, "p50_us", t->p50_us, "p99_us",
                   t->p99_us, "gbytes_per_s", t->bytes / t->p50_us * 1e-3, "flops_per_s",
                   t->flops / t->p50_us * 1e6, "roofline_fraction",
                   kit_roofline_fraction(r->board, t));
}

static json_t *op_json(const report *r, const report_op *op) {
  const kit_timing *t = op->timing;
  json_t *row = json_object();
  json_object_set_new(row, "op", json_string(op_name(op->op_id)));
  json_object_set_new(row, "dtype", json_string(format_name(op->dtype)));
  json_object_set_new(row, "status", json_string(report_status_name(op->status)));
  json_object_set_new(row, "nmse", number_or_null(op->nmse, op->nmse >= 0));
  json_object_set_new(row, "max_error", number_or_null(op->max_error, op->max_error >= 0));
  json_object_set_new(row, "p50_us", number_or_null(t ? t->p50_us : 0, t != NULL));
  json_object_set_new(row, "p99_us", number_or_null(t ? t->p99_us : 0, t != NULL));
  json_object_set_new(row, "gbytes_per_s",
                      number_or_null(t ? t->bytes / t->p50_us * 1e-3 : 0, t != NULL));
  json_object_set_new(row, "flops_per_s",
                      number_or_null(t ? t->flops / t->p50_us * 1e6 : 0, t != NULL));
  json_object_set_new(row, "roofline_fraction",
                      number_or_null(t ? kit_roofline_fraction(r->board, t) : 0, t != NULL));
  return row;
}

static json_t *badges_json(uint32_t badges) {
  json_t *list = json_array();
  for (size_t i = 0; i < KIT_N_BADGES; i++)
    if (badges >> i & 1) json_array_append_new(list, json_string(kit_badge_name(i)));
  return list;
}

static json_t *cases_json(const report *r) {
  json_t *list = json_array();
  for (size_t i = 0; i < r->registry->n_cases; i++) {
    const kit_result *result = &r->board->results[i];
    if (result->status == KIT_NOT_RUN) continue;
    json_array_append_new(list,
                          json_pack("{s:s, s:s, s:f, s:s}", "name", r->registry->cases[i].name,
                                    "status", report_status_name(result->status), "seconds",
                                    result->seconds, "message", result->message));
  }
  return list;
}

static json_t *device_json(const report *r) {
  static const char *const types[] = {"?", "cpu", "gpu", "accelerator"};
  const kit_board *board = r->board;
  const uint32_t type = board->device_type <= CS_DEVICE_TYPE_ACCELERATOR ? board->device_type : 0;
  return json_pack("{s:s, s:s, s:s, s:b}", "type", types[type], "description",
                   board->device_description, "driver", board->device_driver, "software",
                   (board->device_flags & CS_DEVICE_SOFTWARE) != 0);
}

static void add_next_line(void *user, const char *line) {
  json_array_append_new(user, json_string(line));
}

bool report_write_json(const char *path, const report *r) {
  const kit_board *board = r->board;
  double bytes_per_s, flops_per_s;
  kit_roofline(board, &bytes_per_s, &flops_per_s);
  json_t *ops = json_array(), *timings = json_array(), *next_lines = json_array();
  report_op op;
  for (size_t next = 0; report_next_op(r, &next, &op);)
    if (op.status != KIT_NOT_RUN) json_array_append_new(ops, op_json(r, &op));
  for (uint32_t i = 0; i < board->n_timings; i++)
    json_array_append_new(timings, timing_json(r, &board->timings[i]));
  report_walk_next(r, add_next_line, next_lines);
  json_t *root = json_pack(
      "{s:s, s:s, s:s, s:s, s:o, s:I, s:{s:i, s:i, s:i, s:i, s:i}, s:o, s:o, s:{s:f, s:f, s:f}, "
      "s:o, s:o, s:o, s:o}",
      "plugin", board->plugin_name, "version", board->plugin_version, "vendor",
      board->plugin_vendor, "device", r->device, "properties", device_json(r), "seed",
      (json_int_t)r->options->seed, "tests", "run", (int)r->n_run, "passed", (int)r->n_passed,
      "failed", (int)r->n_failed, "unsupported", (int)r->n_unsupported, "waived", (int)r->n_waived,
      "badges", badges_json(r->earned), "missing_badges", badges_json(r->required & ~r->earned),
      "roofline", "copy_bytes_per_s", board->copy_bytes_per_s, "bytes_per_s", bytes_per_s,
      "flops_per_s", flops_per_s, "ops", ops, "timings", timings, "cases", cases_json(r), "next",
      next_lines);
  if (!root) return false;
  const bool is_written = json_dump_file(root, path, JSON_INDENT(1)) == 0;
  json_decref(root);
  return is_written;
}
