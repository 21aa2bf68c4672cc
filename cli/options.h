/* Command lines as tables: what a command takes is data, and help, checks and error lines are made
 * from it. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cli_option_kind {
  CLI_OPTION_FLAG,    /* value: bool */
  CLI_OPTION_STRING,  /* value: const char *, borrowed from argv */
  CLI_OPTION_STRINGS, /* value: cli_strings, may be given again */
  CLI_OPTION_COUNT,   /* value: uint32_t */
  CLI_OPTION_SEED,    /* value: uint64_t */
  CLI_OPTION_NUMBER   /* value: double */
} cli_option_kind;

#define CLI_MAX_STRINGS 16
typedef struct cli_strings {
  const char *items[CLI_MAX_STRINGS]; /* borrowed from argv */
  uint32_t n;
} cli_strings;

typedef struct cli_option {
  const char *name; /* "prefill" is --prefill */
  char letter;      /* 'p' is -p; 0: none */
  cli_option_kind kind;
  void *value;          /* left as it is when the option is not given */
  const char *argument; /* "DEV", for help */
  const char *help;
  double minimum; /* of COUNT and NUMBER, both included; all zero: any */
  double maximum;
  const char *choices; /* of STRING: "warn|allow"; NULL: any */
} cli_option;

typedef struct cli_operand {
  const char *name; /* "MODEL" */
  const char **value;
  bool optional;
} cli_operand;

typedef struct cli_syntax {
  const char *command;
  const char *usage;   /* what follows "consort COMMAND" */
  const char *summary; /* one paragraph */
  const cli_option *options;
  size_t n_options;
  const cli_operand *operands;
  size_t n_operands;
} cli_syntax;

/* Writes the values of argv[1..]. Takes "--name value", "--name=value", "-n value", "-nvalue" and
 * "--" before operands that begin with a dash. true: go on. false: leave with *exit_status, after
 * help was printed (0) or an error line was (2). */
bool cli_options_parse(const cli_syntax *syntax, int argc, char **argv, int *exit_status);

/* Reads a whole string as a decimal number; false when it is anything else or does not fit. */
bool cli_parse_u64(const char *text, uint64_t *value);
/* The same for a finite floating-point number. */
bool cli_parse_double(const char *text, double *value);

/* Of the choices in "run|plan|info", the one nearest to `word` in spelling, written to `out`;
 * false when none is near. */
bool cli_nearest(const char *word, const char *choices, char *out, size_t out_bytes);

#endif
