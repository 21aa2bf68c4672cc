/* Counting, the table of ops, and the text for a terminal. */
#include "report.h"

#include <string.h>

#include "format.h"
#include "optest.h"
#include "perf.h"

void report_init(report *r, const kit_options *options, const kit_registry *registry,
                 const kit_board *board, uint32_t required) {
  *r = (report){.options = options, .registry = registry, .board = board, .required = required};
  for (size_t i = 0; i < registry->n_cases; i++) {
    const uint32_t status = board->results[i].status;
    r->n_run += status != KIT_NOT_RUN;
    r->n_passed += status == KIT_PASSED;
    r->n_failed += status == KIT_FAILED;
    r->n_unsupported += status == KIT_UNSUPPORTED;
    r->n_waived += status == KIT_WAIVED;
  }
  r->earned = kit_badges_earned(registry, board);
  snprintf(r->device, sizeof r->device, "%s:%u", board->plugin_name, options->device_index);
}

const char *report_status_name(uint32_t status) {
  static const char *const names[] = {"not run", "passed", "failed", "unsupported", "waived"};
  return names[status];
}

/* Failures weigh most, then what is not served, then what passed. */
static uint32_t weight_of(uint32_t status) {
  static const uint32_t weights[] = {0, 1, 4, 2, 3};
  return weights[status];
}

static bool is_first_of_its_kind(const kit_registry *registry, size_t index) {
  const kit_case *c = &registry->cases[index];
  for (size_t i = 0; i < index; i++)
    if (registry->cases[i].op_id == c->op_id && registry->cases[i].dtype == c->dtype) return false;
  return c->op_id != 0;
}

/* A required case decides the status where there is one: an optional feature that is not served
 * does not make the op unsupported. */
static uint32_t rank_of(const kit_case *c, uint32_t status) {
  if (status == KIT_UNSUPPORTED && c->badges == 0) return status == KIT_UNSUPPORTED ? 1 : 0;
  return weight_of(status) + 1;
}

bool report_next_op(const report *r, size_t *next, report_op *out) {
  const kit_registry *registry = r->registry;
  while (*next < registry->n_cases && !is_first_of_its_kind(registry, *next))
    ++*next;
  if (*next == registry->n_cases) return false;
  const kit_case *first = &registry->cases[*next];
  *out = (report_op){.op_id = first->op_id, .dtype = first->dtype, .nmse = -1, .max_error = -1};
  uint32_t worst = 0;
  for (size_t i = *next; i < registry->n_cases; i++) {
    const kit_case *c = &registry->cases[i];
    const kit_result *result = &r->board->results[i];
    if (c->op_id != first->op_id || c->dtype != first->dtype || !result->status) continue;
    out->n_cases++;
    out->n_passed += result->status == KIT_PASSED;
    if (rank_of(c, result->status) > worst) {
      worst = rank_of(c, result->status);
      out->status = result->status;
    }
    if (result->nmse > out->nmse) out->nmse = result->nmse;
    if (result->max_error > out->max_error) out->max_error = result->max_error;
  }
  out->timing = kit_timing_find(r->board, first->op_id, first->dtype);
  ++*next;
  return true;
}

/* ---- terminal ---- */

void report_print_case(FILE *out, const kit_case *c, const kit_result *result) {
  static const char *const marks[] = {"?      ", "ok     ", "FAILED ", "no     ", "waived "};
  fprintf(out, "%s%-52s %7.3f s", marks[result->status], c->name, result->seconds);
  if (result->nmse >= 0) fprintf(out, "  nmse %.1e", result->nmse);
  if (result->message[0]) fprintf(out, "\n       %s", result->message);
  fputc('\n', out);
  fflush(out);
}

static void print_timings(FILE *out, const report *r) {
  const kit_board *board = r->board;
  if (board->n_timings == 0) return;
  double bytes_per_s, flops_per_s;
  kit_roofline(board, &bytes_per_s, &flops_per_s);
  fprintf(out, "\nspeed: copy %.1f GB/s; roofline %.1f GB/s, %.1f GFLOP/s\n",
          board->copy_bytes_per_s * 1e-9, bytes_per_s * 1e-9, flops_per_s * 1e-9);
  fprintf(out, "%-16s %-7s %-24s %10s %10s %8s %9s %6s\n", "op", "dtype", "shape", "p50 us",
          "p99 us", "GB/s", "GFLOP/s", "roof");
  for (uint32_t i = 0; i < board->n_timings; i++) {
    const kit_timing *t = &board->timings[i];
    fprintf(out, "%-16s %-7s %-24s %10.1f %10.1f %8.1f %9.1f %5.0f%%\n", op_name(t->op_id),
            format_name(t->dtype), t->shape, t->p50_us, t->p99_us, t->bytes / t->p50_us * 1e-3,
            t->flops / t->p50_us * 1e-3, 100 * kit_roofline_fraction(board, t));
  }
}

static void print_badges(FILE *out, const char *title, uint32_t badges) {
  fprintf(out, "%s", title);
  for (size_t i = 0; i < KIT_N_BADGES; i++)
    if (badges >> i & 1) fprintf(out, " %s", kit_badge_name(i));
  fprintf(out, "%s\n", badges ? "" : " none");
}

static void print_next_line(void *user, const char *line) {
  fprintf(user, "next: %s\n", line);
}

void report_print_summary(FILE *out, const report *r) {
  print_timings(out, r);
  fputc('\n', out);
  if (r->n_failed) fprintf(out, "failed:\n");
  for (size_t i = 0; i < r->registry->n_cases; i++)
    if (r->board->results[i].status == KIT_FAILED)
      fprintf(out, "  %s: %s\n", r->registry->cases[i].name, r->board->results[i].message);
  fprintf(out, "%s %s on %s (%s), seed %llu\n", r->board->plugin_name, r->board->plugin_version,
          r->device, r->board->device_description, (unsigned long long)r->options->seed);
  print_badges(out, "badges:", r->earned);
  if (r->required & ~r->earned) print_badges(out, "missing badges:", r->required & ~r->earned);
  report_walk_next(r, print_next_line, out);
  fprintf(out, "%u run: %u passed, %u failed, %u unsupported, %u waived\n", r->n_run, r->n_passed,
          r->n_failed, r->n_unsupported, r->n_waived);
  fprintf(out, "%u passed, %u failed, %u skipped\n", r->n_passed, r->n_failed,
          r->n_unsupported + r->n_waived);
}

/* ---- docs/ops.md ---- */

static void print_op(FILE *out, const char *name, uint32_t column, uint32_t error_class,
                     const char *operands, const char *formula) {
  static const char *const columns[] = {"minimal", "optional", "MoE", "disaggregated"};
  static const char *const classes[] = {"exact", "F32", "half", "int8"};
  fprintf(out, "## `%s`\n\n%s column, loosest error class %s\n\n", name, columns[column],
          classes[error_class]);
  fprintf(out, "- operands: `%s`\n- formula: `%s`\n\n", operands, formula);
}

void report_print_ops(FILE *out) {
  fprintf(out,
          "# The ops\n\n"
          "Made by `consort-cts --print-ops` from `CS_OP_TABLE` in "
          "`core/include/consort/ops.h`, which the kit and the host read as well.\n"
          "Shapes are rows first; operands in brackets may be left out (dtype none); integers "
          "are 32-bit. `n` is the number of rows (tokens) in the batch.\n\n"
          "The NMSE, sum((y - r)^2) / sum(r^2), of a result y against the float64 reference r "
          "stays within its class. A plugin may promise a tighter class than the table "
          "does, never a looser one; matmuls with F32 weights promise F32, with F16 or BF16 "
          "weights at least half.\n\n"
          "| class | NMSE at most |\n|---|---|\n"
          "| exact | every bit equal |\n| F32 | %g |\n| half | %g |\n| int8 | %g |\n\n",
          CS_NMSE_LIMIT_F32, CS_NMSE_LIMIT_HALF, CS_NMSE_LIMIT_INT8);
  fprintf(out, "A KV row that an op rounds to int8 (i8) is held against the format itself, as "
               "`consort/kv.h` says it: its scale within 2^-21 of max |x| / 127, each element "
               "within 0.5 + 2^-13 of x / scale. What is only moved keeps every bit.\n\n");
#define PRINT_OP(ID, number, name, column, error_class, n_operands, operands, formula)             \
  print_op(out, name, column, error_class, operands, formula);
  CS_OP_TABLE(PRINT_OP)
#undef PRINT_OP
}
