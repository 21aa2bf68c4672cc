/* What a chip maker does next, said in a few lines: the order is that of the work. What fails comes
 * first, because nothing above it can be trusted; then the badge that is nearest in the order in
 * which a model needs them; then debts; then speed, where a token spends its time. */
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "optest.h"
#include "perf.h"
#include "report.h"

#define MAX_NAMED  4
#define SLOW_SHARE 0.5
#define LINE_BYTES 640

static const kit_case *case_at(const report *r, size_t i) {
  return &r->registry->cases[i];
}

static const kit_result *result_at(const report *r, size_t i) {
  return &r->board->results[i];
}

static void tell_failures(const report *r, report_line_fn tell, void *user) {
  char line[LINE_BYTES];
  uint32_t n_named = 0;
  for (size_t i = 0; i < r->registry->n_cases && n_named < MAX_NAMED; i++) {
    if (result_at(r, i)->status != KIT_FAILED) continue;
    snprintf(line, sizeof line, "Mend %s: %s", case_at(r, i)->name, result_at(r, i)->message);
    tell(user, line);
    n_named++;
  }
  if (r->n_failed > n_named) {
    snprintf(line, sizeof line,
             "%u more cases fail; mend those above first, they come in the order "
             "in which one builds on another",
             r->n_failed - n_named);
    tell(user, line);
  }
  if (r->n_failed == 0) return;
  snprintf(line, sizeof line,
           "One case alone, in a debugger: consort-cts PLUGIN --only NAME --seed %llu --no-fork",
           (unsigned long long)r->options->seed);
  tell(user, line);
}

/* Case names without what comes after the second slash, each once: "matmul/q4_0". */
static bool is_new_group(const report *r, size_t index, uint32_t badge) {
  const char *name = case_at(r, index)->name;
  const char *slash = strchr(name, '/');
  slash = slash ? strchr(slash + 1, '/') : NULL;
  const size_t length = slash ? (size_t)(slash - name) : strlen(name);
  for (size_t i = 0; i < index; i++)
    if (case_at(r, i)->badges & badge && result_at(r, i)->status == KIT_UNSUPPORTED &&
        strncmp(case_at(r, i)->name, name, length) == 0)
      return false;
  return true;
}

static void tell_badge(const report *r, size_t index, report_line_fn tell, void *user) {
  const uint32_t badge = UINT32_C(1) << index;
  char line[LINE_BYTES], named[LINE_BYTES / 2] = "";
  uint32_t n_unserved = 0, n_not_run = 0, n_named = 0;
  for (size_t i = 0; i < r->registry->n_cases; i++) {
    const uint32_t status = result_at(r, i)->status;
    if (!(case_at(r, i)->badges & badge)) continue;
    n_not_run += status == KIT_NOT_RUN;
    if (status != KIT_UNSUPPORTED) continue;
    n_unserved++;
    if (n_named == MAX_NAMED || !is_new_group(r, i, badge)) continue;
    const size_t used = strlen(named);
    snprintf(named + used, sizeof named - used, "%s%s", n_named ? ", " : "", case_at(r, i)->name);
    n_named++;
  }
  if (n_not_run)
    snprintf(line, sizeof line, "For the badge %s, run all cases: %u were not",
             kit_badge_name(index), n_not_run);
  else
    snprintf(line, sizeof line, "For the badge %s, serve %u more cases, among them %s",
             kit_badge_name(index), n_unserved, named);
  if (n_not_run || n_unserved) tell(user, line);
}

static void tell_waivers(const report *r, report_line_fn tell, void *user) {
  char line[LINE_BYTES];
  for (size_t i = 0; i < r->registry->n_cases; i++) {
    if (result_at(r, i)->status != KIT_WAIVED) continue;
    snprintf(line, sizeof line, "Pay the debt %s: %s", case_at(r, i)->name,
             result_at(r, i)->message);
    tell(user, line);
  }
}

static bool is_same_work(const kit_timing *a, const kit_timing *b) {
  return a->op_id == b->op_id && strcmp(a->shape, b->shape) == 0;
}

/* Matmuls and attention, the slowest first: what a token waits for. Of several dtypes at one shape
 * the slowest speaks for all. */
static void tell_speed(const report *r, report_line_fn tell, void *user) {
  bool told[KIT_MAX_TIMINGS] = {false};
  char line[LINE_BYTES];
  const kit_board *board = r->board;
  for (uint32_t n = 0; n < MAX_NAMED; n++) {
    uint32_t slowest = KIT_MAX_TIMINGS;
    double least = SLOW_SHARE;
    for (uint32_t i = 0; i < board->n_timings; i++) {
      const kit_timing *t = &board->timings[i];
      const bool matters = t->op_id == CS_OP_MATMUL || t->op_id == CS_OP_ATTENTION_PAGED;
      const double share = kit_roofline_fraction(board, t);
      if (!matters || told[i] || share >= least) continue;
      least = share;
      slowest = i;
    }
    if (slowest == KIT_MAX_TIMINGS) return;
    const kit_timing *t = &board->timings[slowest];
    for (uint32_t i = 0; i < board->n_timings; i++)
      told[i] |= is_same_work(t, &board->timings[i]);
    snprintf(line, sizeof line, "Make %s %s (%s) faster: %.0f %% of the roofline measured here",
             op_name(t->op_id), format_name(t->dtype), t->shape, 100 * least);
    tell(user, line);
  }
}

void report_walk_next(const report *r, report_line_fn tell, void *user) {
  tell_failures(r, tell, user);
  for (size_t i = 0; i < KIT_N_BADGES && r->n_failed == 0; i++)
    if (!(r->earned >> i & 1)) tell_badge(r, i, tell, user);
  tell_waivers(r, tell, user);
  if (r->n_failed == 0) tell_speed(r, tell, user);
}
