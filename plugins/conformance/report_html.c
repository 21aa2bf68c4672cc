/* One HTML page for people: no script, styles inside, so that the file can be mailed. First what it
 * comes to and what to do next, then ops and speed, then what is not served, and last every case.
 */
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "optest.h"
#include "perf.h"
#include "report.h"

static const char style[] =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 "
    "1rem;color:#222;background:#fff}"
    "h1{margin-bottom:0}h2{margin:2rem 0 .3rem}.note{color:#666;margin:.2rem 0}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0}"
    "th,td{padding:.15rem .45rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap;"
    "font-variant-numeric:tabular-nums}"
    "th{position:sticky;top:0;background:#fff}tr:hover td{background:#f6f8fa}"
    ".text{text-align:left;white-space:normal;overflow-wrap:anywhere}.name{text-align:left}"
    ".badge{display:inline-block;padding:.2rem .8rem;border-radius:1rem;margin:.2rem .4rem .2rem 0}"
    "tr td.passed,.passed{background:#d9f2df}tr td.failed,.failed{background:#ffd6d6}"
    "tr td.unsupported,.unsupported{background:#eee}tr td.waived,.waived{background:#fff0c7}"
    ".next{background:#f3f6fb;border-left:4px solid #5b7fb8;padding:.5rem 1rem .5rem 2rem;margin:"
    ".5rem 0}summary{cursor:pointer;font-size:1.5em;font-weight:bold;margin:2rem 0 .3rem}"
    ".bar{display:inline-block;width:2.5rem;height:.6rem;background:#eee;margin-right:.4rem}"
    ".bar i{display:block;height:100%;background:#5b7fb8}";

static void put_header(FILE *out, const report *r) {
  const kit_board *board = r->board;
  const bool is_software = board->device_flags & CS_DEVICE_SOFTWARE;
  fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", out);
  report_put_escaped(out, r->device);
  fprintf(out, " conformance</title><style>%s</style></head><body>\n<h1>", style);
  report_put_escaped(out, r->device);
  fputs("</h1>\n<p class=\"note\">", out);
  report_put_escaped(out, board->device_description);
  fputs(", driver ", out);
  report_put_escaped(out, board->device_driver);
  fputs(is_software ? " (a software device), plugin " : ", plugin ", out);
  report_put_escaped(out, board->plugin_version);
  fputs(" of ", out);
  report_put_escaped(out, board->plugin_vendor);
  fprintf(out, "; seed %llu</p>\n<p>", (unsigned long long)r->options->seed);
  const struct {
    const char *name;
    uint32_t n;
  } counts[] = {{"passed", r->n_passed},
                {"failed", r->n_failed},
                {"unsupported", r->n_unsupported},
                {"waived", r->n_waived}};
  fprintf(out, "%u cases ran: ", r->n_run);
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
    fprintf(out, "<span class=\"badge %s\">%u %s</span>", counts[i].n ? counts[i].name : "",
            counts[i].n, counts[i].name);
  fputs("</p>\n<p>Badges: ", out);
  for (size_t i = 0; i < KIT_N_BADGES; i++) {
    const bool is_earned = r->earned >> i & 1, is_missing = !is_earned && r->required >> i & 1;
    fprintf(out, "<span class=\"badge %s\">%s %s%s</span>",
            is_earned    ? "passed"
            : is_missing ? "failed"
                         : "unsupported",
            kit_badge_name(i), is_earned ? "&#10003;" : "&#8211;", is_missing ? " (required)" : "");
  }
  fputs("</p>\n", out);
}

typedef struct next_list {
  FILE *out;
  uint32_t n;
} next_list;

static void put_next_line(void *user, const char *line) {
  next_list *list = user;
  if (list->n++ == 0) fputs("<h2>What to do next</h2>\n<ol class=\"next\">\n", list->out);
  fputs("<li>", list->out);
  report_put_escaped(list->out, line);
  fputs("</li>\n", list->out);
}

static void put_next(FILE *out, const report *r) {
  next_list list = {.out = out};
  report_walk_next(r, put_next_line, &list);
  if (list.n) fputs("</ol>\n", out);
}

static void put_number(FILE *out, bool is_there, const char *format, double value) {
  fputs("<td>", out);
  if (is_there) fprintf(out, format, value);
  fputs("</td>", out);
}

static void put_share(FILE *out, const report *r, const kit_timing *t) {
  if (!t) {
    fputs("<td></td>", out);
    return;
  }
  const double share = 100 * kit_roofline_fraction(r->board, t);
  fprintf(out, "<td><span class=\"bar\"><i style=\"width:%.0f%%\"></i></span>%.0f %%</td>",
          share < 100 ? share : 100, share);
}

static void put_times(FILE *out, const report *r, const kit_timing *t) {
  fprintf(out, "<td class=\"name\">%s</td>", t ? t->shape : "");
  put_number(out, t, "%.1f", t ? t->p50_us : 0);
  put_number(out, t, "%.1f", t ? t->p99_us : 0);
  put_number(out, t, "%.1f", t ? t->bytes / t->p50_us * 1e-3 : 0);
  put_number(out, t, "%.1f", t ? t->flops / t->p50_us * 1e-3 : 0);
  put_share(out, r, t);
}

/* The next measurement of the op at another shape, NULL at the end. */
static const kit_timing *next_timing(const kit_board *board, const kit_timing *t) {
  for (const kit_timing *next = t + 1; next < board->timings + board->n_timings; next++)
    if (next->op_id == t->op_id && next->dtype == t->dtype) return next;
  return NULL;
}

static void put_ops(FILE *out, const report *r) {
  const kit_board *board = r->board;
  double bytes_per_s, flops_per_s;
  kit_roofline(board, &bytes_per_s, &flops_per_s);
  fputs("<h2>Ops</h2>\n", out);
  if (board->n_timings)
    fprintf(out,
            "<p class=\"note\">Roofline measured on this device: %.1f GB/s (copies %.1f GB/s), "
            "%.1f GFLOP/s, the fastest seen in this run. Error is that of the worst case.</p>\n",
            bytes_per_s * 1e-9, board->copy_bytes_per_s * 1e-9, flops_per_s * 1e-9);
  fputs("<table><tr><th class=\"name\">op</th><th class=\"name\">dtype</th><th "
        "class=\"name\">status</th><th>cases</th><th>NMSE</th><th>largest error</th><th "
        "class=\"name\">measured at</th><th>p50 &micro;s</th><th>p99 &micro;s</th><th>GB/s</th>"
        "<th>GFLOP/s</th><th>of roofline</th></tr>\n",
        out);
  report_op op;
  for (size_t next = 0; report_next_op(r, &next, &op);) {
    const kit_timing *t = op.timing;
    if (op.status == KIT_NOT_RUN) continue;
    const char *status = report_status_name(op.status);
    fprintf(out,
            "<tr><td class=\"name\">%s</td><td class=\"name\">%s</td><td class=\"name %s\">%s</td>"
            "<td>%u of %u</td>",
            op_name(op.op_id), format_name(op.dtype), status, status, op.n_passed, op.n_cases);
    put_number(out, op.nmse >= 0, op.nmse > 0 ? "%.1e" : "%.0f", op.nmse);
    put_number(out, op.max_error >= 0, op.max_error > 0 ? "%.1e" : "%.0f", op.max_error);
    put_times(out, r, t);
    fputs("</tr>\n", out);
    while (t && (t = next_timing(board, t))) {
      fputs("<tr><td></td><td></td><td></td><td></td><td></td><td></td>", out);
      put_times(out, r, t);
      fputs("</tr>\n", out);
    }
  }
  fputs("</table>\n", out);
}

static void put_cases(FILE *out, const report *r, uint32_t status, const char *title) {
  uint32_t n = 0;
  for (size_t i = 0; i < r->registry->n_cases; i++) {
    const kit_result *result = &r->board->results[i];
    const bool is_wanted = status == KIT_NOT_RUN || result->status == status;
    if (result->status == KIT_NOT_RUN || !is_wanted) continue;
    if (n++ == 0)
      fprintf(out,
              "<details%s><summary>%s</summary>\n<table><tr><th class=\"name\">case</th><th "
              "class=\"name\">status</th><th>s</th><th class=\"text\">why</th></tr>\n",
              status == KIT_FAILED || status == KIT_WAIVED ? " open" : "", title);
    const char *name = report_status_name(result->status);
    fprintf(out,
            "<tr><td class=\"name\">%s</td><td class=\"name %s\">%s</td><td>%.2f</td><td "
            "class=\"text\">",
            r->registry->cases[i].name, name, name, result->seconds);
    report_put_escaped(out, result->message);
    fputs("</td></tr>\n", out);
  }
  if (n) fputs("</table></details>\n", out);
}

bool report_write_html(const char *path, const report *r) {
  FILE *out = fopen(path, "w");
  char title[64];
  if (!out) return false;
  put_header(out, r);
  put_next(out, r);
  put_cases(out, r, KIT_FAILED, "Failed");
  put_cases(out, r, KIT_WAIVED, "Waived");
  put_ops(out, r);
  snprintf(title, sizeof title, "Not served: %u cases", r->n_unsupported);
  put_cases(out, r, KIT_UNSUPPORTED, title);
  snprintf(title, sizeof title, "All %u cases", r->n_run);
  put_cases(out, r, KIT_NOT_RUN, title);
  fputs("</body></html>\n", out);
  return report_close_written(out);
}
