/* What a run found, for people and for programs. */
#ifndef KIT_REPORT_H
#define KIT_REPORT_H

#include <stdio.h>

#include "registry.h"

typedef struct report {
  const kit_options *options;
  const kit_registry *registry;
  const kit_board *board;
  uint32_t required; /* badges */
  uint32_t earned;
  uint32_t n_run, n_passed, n_failed, n_unsupported, n_waived;
  char device[96]; /* "cpu:0" */
} report;

/* One row of the table of ops: the cases of one op and dtype together. */
typedef struct report_op {
  uint32_t op_id;
  uint32_t dtype;
  uint32_t status; /* the worst of its cases */
  double nmse;     /* the largest; negative when nothing was compared so */
  double max_error;
  uint32_t n_cases, n_passed;
  const kit_timing *timing; /* NULL when it was not timed */
} report_op;

void report_init(report *r, const kit_options *options, const kit_registry *registry,
                 const kit_board *board, uint32_t required);
/* "passed", "failed", "unsupported", "waived" or "not run". */
const char *report_status_name(uint32_t status);
/* Walks the table of ops: false at the end. Start with *next = 0. */
bool report_next_op(const report *r, size_t *next, report_op *out);

/* One line, without its end. */
typedef void (*report_line_fn)(void *user, const char *line);
/* What to do next, most pressing first; nothing when all badges are earned and all is fast. */
void report_walk_next(const report *r, report_line_fn tell, void *user);

void report_print_case(FILE *out, const kit_case *c, const kit_result *result);
void report_print_summary(FILE *out, const report *r);
/* Each writes a whole file: false with errno set when it cannot. */
bool report_write_json(const char *path, const report *r);
bool report_write_junit(const char *path, const report *r);
bool report_write_html(const char *path, const report *r);
/* The op table of ops.h as the page docs/ops.md. */
void report_print_ops(FILE *out);

/* ---- shared by the writers ---- */

/* Text for XML and HTML. */
void report_put_escaped(FILE *out, const char *text);
/* False when something could not be written. */
bool report_close_written(FILE *out);

#endif
