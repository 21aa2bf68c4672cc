/* JUnit for continuous integration, and what it shares with the page for people. */
#include <stdio.h>

#include "report.h"

void report_put_escaped(FILE *out, const char *text) {
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

bool report_close_written(FILE *out) {
  const bool is_fine = !ferror(out);
  return fclose(out) == 0 && is_fine;
}

static void put_junit_case(FILE *out, const char *plugin, const kit_case *c,
                           const kit_result *result) {
  fprintf(out, "  <testcase classname=\"");
  report_put_escaped(out, plugin);
  fprintf(out, "\" name=\"%s\" time=\"%.3f\">", c->name, result->seconds);
  if (result->status == KIT_FAILED) {
    fputs("<failure message=\"", out);
    report_put_escaped(out, result->message);
    fputs("\"/>", out);
  } else if (result->status != KIT_PASSED) {
    fputs("<skipped message=\"", out);
    report_put_escaped(out, result->message);
    fputs("\"/>", out);
  }
  fputs("</testcase>\n", out);
}

bool report_write_junit(const char *path, const report *r) {
  FILE *out = fopen(path, "w");
  if (!out) return false;
  fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"consort-cts ");
  report_put_escaped(out, r->device);
  fprintf(out, "\" tests=\"%u\" failures=\"%u\" skipped=\"%u\">\n", r->n_run, r->n_failed,
          r->n_unsupported + r->n_waived);
  for (size_t i = 0; i < r->registry->n_cases; i++)
    if (r->board->results[i].status != KIT_NOT_RUN)
      put_junit_case(out, r->board->plugin_name, &r->registry->cases[i], &r->board->results[i]);
  fputs("</testsuite>\n", out);
  return report_close_written(out);
}
