/* JUnit for continuous integration and one HTML page for people: no script, styles inside, so that
 * the file can be mailed. */
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "optest.h"
#include "perf.h"
#include "report.h"

static void put_escaped(FILE *out, const char *text) {
  for (; *text; text++) {
    const unsigned char c = (unsigned char)*text;
    if (c == '<')
      fputs("&lt;", out);
    else if (c == '>')
      fputs("&gt;", out);
    else if (c == '&')
      fputs("&amp;", out);
    else if (c == '"')
      fputs("&quot;", out);
    else
      fputc(c < 32 ? ' ' : c, out);
  }
}

static bool close_written(FILE *out) {
  const bool is_fine = !ferror(out);
  return fclose(out) == 0 && is_fine;
}

/* ---- JUnit ---- */

static void put_junit_case(FILE *out, const char *plugin, const kit_case *c,
                           const kit_result *result) {
  fprintf(out, "  <testcase classname=\"");
  put_escaped(out, plugin);
  fprintf(out, "\" name=\"%s\" time=\"%.3f\">", c->name, result->seconds);
  if (result->status == KIT_FAILED) {
    fputs("<failure message=\"", out);
    put_escaped(out, result->message);
    fputs("\"/>", out);
  } else if (result->status != KIT_PASSED) {
    fputs("<skipped message=\"", out);
    put_escaped(out, result->message);
    fputs("\"/>", out);
  }
  fputs("</testcase>\n", out);
}

bool report_write_junit(const char *path, const report *r) {
  FILE *out = fopen(path, "w");
  if (!out) return false;
  fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"consort-cts ");
  put_escaped(out, r->device);
  fprintf(out, "\" tests=\"%u\" failures=\"%u\" skipped=\"%u\">\n", r->n_run, r->n_failed,
          r->n_unsupported + r->n_waived);
  for (size_t i = 0; i < r->registry->n_cases; i++)
    if (r->board->results[i].status != KIT_NOT_RUN)
      put_junit_case(out, r->board->plugin_name, &r->registry->cases[i], &r->board->results[i]);
  fputs("</testsuite>\n", out);
  return close_written(out);
}

/* ---- HTML ---- */

static const char style[] =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 "
    "1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}"
    "th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child,th:nth-child(2),td:nth-child(2),.text{text-align:left}"
    ".badge{display:inline-block;padding:.2rem .8rem;border-radius:1rem;margin:0 .4rem .4rem 0}"
    ".passed{background:#d9f2df}.failed{background:#ffd6d6}.unsupported{background:#eee}"
    ".waived{background:#fff0c7}";

static void put_badges(FILE *out, const report *r) {
  fputs("<p>", out);
  for (size_t i = 0; i < KIT_N_BADGES; i++) {
    const bool is_earned = r->earned >> i & 1;
    fprintf(out, "<span class=\"badge %s\">%s %s</span>", is_earned ? "passed" : "unsupported",
            kit_badge_name(i), is_earned ? "&#10003;" : "&#8211;");
  }
  fputs("</p>\n", out);
}

static void put_number(FILE *out, bool is_there, const char *format, double value) {
  fputs("<td>", out);
  if (is_there) fprintf(out, format, value);
  fputs("</td>", out);
}

static void put_ops(FILE *out, const report *r) {
  fputs("<h2>Ops</h2>\n<table><tr><th>op</th><th>dtype</th><th>status</th><th>NMSE</th>"
        "<th>largest error</th><th>p50 &micro;s</th><th>p99 &micro;s</th><th>GB/s</th>"
        "<th>GFLOP/s</th><th>of roofline</th></tr>\n",
        out);
  report_op op;
  for (size_t next = 0; report_next_op(r, &next, &op);) {
    const kit_timing *t = op.timing;
    if (op.status == KIT_NOT_RUN) continue;
    const char *status = report_status_name(op.status);
    fprintf(out, "<tr><td>%s</td><td>%s</td><td class=\"%s\">%s</td>", op_name(op.op_id),
            format_name(op.dtype), status, status);
    put_number(out, op.nmse >= 0, "%.1e", op.nmse);
    put_number(out, op.max_error >= 0, "%.1e", op.max_error);
    put_number(out, t, "%.1f", t ? t->p50_us : 0);
    put_number(out, t, "%.1f", t ? t->p99_us : 0);
    put_number(out, t, "%.1f", t ? t->bytes / t->p50_us * 1e-3 : 0);
    put_number(out, t, "%.1f", t ? t->flops / t->p50_us * 1e-3 : 0);
    put_number(out, t, "%.0f %%", t ? 100 * kit_roofline_fraction(r->board, t) : 0);
    fputs("</tr>\n", out);
  }
  fputs("</table>\n", out);
}

static void put_cases(FILE *out, const report *r) {
  fputs("<h2>Cases</h2>\n<table><tr><th>case</th><th>status</th><th>s</th>"
        "<th class=\"text\">why</th></tr>\n",
        out);
  for (size_t i = 0; i < r->registry->n_cases; i++) {
    const kit_result *result = &r->board->results[i];
    if (result->status == KIT_NOT_RUN) continue;
    const char *status = report_status_name(result->status);
    fprintf(out, "<tr><td>%s</td><td class=\"%s\">%s</td><td>%.2f</td><td class=\"text\">",
            r->registry->cases[i].name, status, status, result->seconds);
    put_escaped(out, result->message);
    fputs("</td></tr>\n", out);
  }
  fputs("</table>\n", out);
}

bool report_write_html(const char *path, const report *r) {
  FILE *out = fopen(path, "w");
  if (!out) return false;
  fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", out);
  put_escaped(out, r->device);
  fprintf(out, " conformance</title><style>%s</style></head><body>\n<h1>", style);
  put_escaped(out, r->device);
  fputs("</h1>\n<p>", out);
  put_escaped(out, r->board->device_description);
  fputs(", plugin ", out);
  put_escaped(out, r->board->plugin_version);
  fputs(", driver ", out);
  put_escaped(out, r->board->device_driver);
  fprintf(out,
          "%s</p>\n<p>%u run: %u passed, %u failed, %u unsupported, %u waived; seed %llu</p>\n",
          r->board->device_flags & CS_DEVICE_SOFTWARE ? " (a software device)" : "", r->n_run,
          r->n_passed, r->n_failed, r->n_unsupported, r->n_waived,
          (unsigned long long)r->options->seed);
  put_badges(out, r);
  put_ops(out, r);
  put_cases(out, r);
  fputs("</body></html>\n", out);
  return close_written(out);
}
