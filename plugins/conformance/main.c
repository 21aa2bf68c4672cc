/* consort-cts: the conformance kit. Arguments in, reports out; the work is in supervise.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "report.h"
#include "supervise.h"
#include "waivers.h"

#define EXIT_USAGE           2
#define CASE_TIMEOUT_SECONDS 120
#define SOAK_TIMEOUT_SECONDS 60

static const char usage[] =
    "usage: consort-cts PLUGIN.so [options]\n"
    "  --device N          the device to test (0)\n"
    "  --option KEY=VALUE  an option for device_open; may be repeated\n"
    "  --pair OTHER.so     also move KV between the two plugins, both ways\n"
    "  --require BADGES    Core, LLM-dense, LLM-quant, MoE, Disaggregated: fail without them\n"
    "  --only PATTERN,...  only cases whose name matches (* and ? stand for other characters)\n"
    "  --list              print the names of the cases and end\n"
    "  --json FILE         results for programs\n"
    "  --junit FILE        results for continuous integration\n"
    "  --html FILE         results for people: one self-contained page\n"
    "  --waive FILE        known failures, one \"PATTERN: REASON\" a line\n"
    "  --seed S            random inputs as in the run that printed this seed\n"
    "  --quick             every case runs, over fewer shapes and for a shorter time\n"
    "  --no-speed          measure no times\n"
    "  --soak SECONDS      how long the soak goes on (5)\n"
    "  --timeout SECONDS   how long one case may take before the plugin is said to hang (120)\n"
    "  --no-fork           everything in one process, for a debugger\n"
    "  --verbose           show what the plugin logs\n"
    "  --print-ops         print the table of ops as a page and end\n"
    "Exit status: 0 all passed, 1 something failed or a required badge is missing, 2 wrong "
    "usage.\n";

typedef struct arguments {
  kit_options options;
  const char *only, *json, *junit, *html, *waive;
  uint32_t required;
  bool list, print_ops, help, no_speed;
} arguments;

static bool parse_u64(const char *text, uint64_t *out) {
  char *end;
  errno = 0;
  *out = strtoull(text, &end, 0);
  return errno == 0 && end != text && *end == '\0' && text[0] != '-';
}

static bool parse_u32(const char *text, uint32_t *out) {
  uint64_t value;
  if (!parse_u64(text, &value) || value > UINT32_MAX) return false;
  *out = (uint32_t)value;
  return true;
}

/* "key=value", cut in place. */
static bool parse_option(char *text, kit_options *options) {
  const uint32_t capacity = sizeof options->options / sizeof options->options[0];
  char *equals = strchr(text, '=');
  if (!equals || equals == text || options->n_options == capacity) return false;
  *equals = '\0';
  options->options[options->n_options++] = (cs_option){text, equals + 1};
  return true;
}

/* An option that takes a value: 1 taken, 0 not known, -1 a bad value. */
static int parse_valued(arguments *a, const char *name, char *value) {
  const struct {
    const char *name;
    const char **to;
  } texts[] = {{"--only", &a->only}, {"--json", &a->json},   {"--junit", &a->junit},
               {"--html", &a->html}, {"--waive", &a->waive}, {"--pair", &a->options.pair_path}};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    if (strcmp(name, texts[i].name) == 0) {
      *texts[i].to = value;
      return value ? 1 : -1;
    }
  const struct {
    const char *name;
    uint32_t *to;
  } numbers[] = {{"--device", &a->options.device_index},
                 {"--soak", &a->options.soak_seconds},
                 {"--timeout", &a->options.timeout_seconds}};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    if (strcmp(name, numbers[i].name) == 0)
      return value && parse_u32(value, numbers[i].to) ? 1 : -1;
  if (strcmp(name, "--seed") == 0) return value && parse_u64(value, &a->options.seed) ? 1 : -1;
  if (strcmp(name, "--option") == 0) return value && parse_option(value, &a->options) ? 1 : -1;
  if (strcmp(name, "--require") == 0)
    return value && kit_badges_parse(value, &a->required) ? 1 : -1;
  return 0;
}

static bool parse_flag(arguments *a, const char *name) {
  const struct {
    const char *name;
    bool *to;
  } flags[] = {{"--quick", &a->options.quick},
               {"--verbose", &a->options.verbose},
               {"--no-speed", &a->no_speed},
               {"--no-fork", &a->options.in_process},
               {"--list", &a->list},
               {"--print-ops", &a->print_ops},
               {"--help", &a->help}};
  for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
    if (strcmp(name, flags[i].name) == 0) return *flags[i].to = true;
  return false;
}

static bool parse(int argc, char **argv, arguments *a) {
  for (int i = 1; i < argc; i++) {
    if (argv[i][0] != '-') {
      if (a->options.plugin_path) {
        fprintf(stderr, "consort-cts: error: %s: one plugin at a time\n", argv[i]);
        return false;
      }
      a->options.plugin_path = argv[i];
      continue;
    }
    if (parse_flag(a, argv[i])) continue;
    const int taken = parse_valued(a, argv[i], argv[i + 1]);
    if (taken <= 0) {
      fprintf(stderr, "consort-cts: error: %s: %s\n", argv[i],
              taken == 0 ? "no such option" : "no value, or a wrong one");
      return false;
    }
    i++;
  }
  if (a->options.plugin_path || a->list || a->print_ops || a->help) return true;
  fprintf(stderr, "consort-cts: error: no plugin was named\n");
  return false;
}

static void on_progress(void *user, const kit_case *c, const kit_result *result) {
  report_print_case(user, c, result);
}

static bool write_reports(const arguments *a, const report *r) {
  const struct {
    const char *path;
    bool (*write)(const char *path, const report *r);
  } files[] = {
      {a->json, report_write_json}, {a->junit, report_write_junit}, {a->html, report_write_html}};
  bool all = true;
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    if (!files[i].path || files[i].write(files[i].path, r)) continue;
    fprintf(stderr, "consort-cts: error: %s: cannot be written\n", files[i].path);
    all = false;
  }
  return all;
}

static int run(const arguments *a, const kit_registry *registry) {
  kit_board *board = kit_board_create(registry);
  if (!board) {
    fprintf(stderr, "consort-cts: error: no shared memory: %s\n", strerror(errno));
    return EXIT_FAILURE;
  }
  const bool is_whole = kit_supervise(&a->options, registry, board, on_progress, stdout);
  if (!is_whole)
    fprintf(stderr, "consort-cts: error: %s: %s\n", a->options.plugin_path, board->setup_error);
  uint32_t n_unneeded = 0;
  bool waivers_fine = true;
  if (a->waive) waivers_fine = kit_apply_waivers(a->waive, registry, board, &n_unneeded);
  report r;
  report_init(&r, &a->options, registry, board, a->required);
  report_print_summary(stdout, &r);
  const bool is_written = write_reports(a, &r);
  const bool passed = is_whole && waivers_fine && n_unneeded == 0 && is_written &&
                      r.n_failed == 0 && (a->required & ~r.earned) == 0 && r.n_run > 0;
  kit_board_destroy(board, registry);
  return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}

static uint64_t fresh_seed(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  kit_rng rng = {(uint64_t)now.tv_sec * 1000000007 + (uint64_t)now.tv_nsec + (uint64_t)getpid()};
  return rng_below(&rng, UINT64_C(1) << 40);
}

int main(int argc, char **argv) {
  arguments a = {.options = {.timeout_seconds = CASE_TIMEOUT_SECONDS, .seed = fresh_seed()}};
  if (!parse(argc, argv, &a)) {
    fputs(usage, stderr);
    return EXIT_USAGE;
  }
  a.options.measure = !a.no_speed;
  if (a.help) fputs(usage, stdout);
  if (a.print_ops) report_print_ops(stdout);
  if (a.help || a.print_ops) return EXIT_SUCCESS;
  const uint32_t soak_timeout = a.options.soak_seconds + SOAK_TIMEOUT_SECONDS;
  if (a.options.soak_seconds && a.options.timeout_seconds < soak_timeout)
    a.options.timeout_seconds = soak_timeout;
  kit_registry registry;
  kit_registry_init(&registry, a.only, a.options.pair_path != NULL);
  int status = EXIT_SUCCESS;
  if (a.list) {
    for (size_t i = 0; i < registry.n_cases; i++)
      if (registry.wanted[i]) puts(registry.cases[i].name);
  } else {
    status = run(&a, &registry);
  }
  kit_registry_finish(&registry);
  return status;
}
