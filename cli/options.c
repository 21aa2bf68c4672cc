/* Numbers are read strictly (no sign, blank or trailing letter passes), because a mistyped size
 * that is quietly read as another one costs more than an error line. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/report.h"

#define MAX_WORD 24 /* longest word that is compared for a hint */

bool cli_parse_u64(const char *text, uint64_t *value) {
  if (text[0] < '0' || text[0] > '9') return false;
  char *end;
  errno = 0;
  const unsigned long long parsed = strtoull(text, &end, 10);
  if (errno != 0 || *end != '\0') return false;
  *value = parsed;
  return true;
}

bool cli_parse_double(const char *text, double *value) {
  const char *digits = text[0] == '-' ? text + 1 : text;
  if ((digits[0] < '0' || digits[0] > '9') && digits[0] != '.') return false;
  char *end;
  const double parsed = strtod(text, &end);
  if (end == text || *end != '\0' || !isfinite(parsed) || strpbrk(text, "xX")) return false;
  *value = parsed;
  return true;
}

/* ---- hints ---- */

/* Levenshtein distance of two words of at most MAX_WORD bytes. */
static size_t edit_distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
  size_t row[MAX_WORD + 1];
  for (size_t j = 0; j <= b_bytes; j++)
    row[j] = j;
  for (size_t i = 1; i <= a_bytes; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b_bytes; j++) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      const size_t edited = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
      row[j] = replaced < edited ? replaced : edited;
    }
  }
  return row[b_bytes];
}

bool cli_nearest(const char *word, const char *choices, char *out, size_t out_bytes) {
  const size_t word_bytes = strlen(word);
  size_t best = word_bytes < 3 ? word_bytes : 3; /* fewer edits than this */
  bool found = false;
  for (const char *choice = choices; *choice;) {
    const size_t bytes = strcspn(choice, "|");
    if (word_bytes <= MAX_WORD && bytes <= MAX_WORD) {
      const size_t distance = edit_distance(word, word_bytes, choice, bytes);
      if (distance < best) {
        best = distance;
        found = true;
        snprintf(out, out_bytes, "%.*s", (int)bytes, choice);
      }
    }
    choice += bytes + (choice[bytes] == '|');
  }
  return found;
}

static int unknown_option(const cli_syntax *syntax, const char *given) {
  char names[512] = "", nearest[MAX_WORD + 1];
  size_t used = 0;
  for (size_t i = 0; i < syntax->n_options && used < sizeof names; i++)
    used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? "|" : "",
                             syntax->options[i].name);
  const char *word = given + strspn(given, "-");
  if (given[1] == '-' && cli_nearest(word, names, nearest, sizeof nearest))
    return cli_usage_error(given, "unknown option: did you mean --%s?", nearest);
  return cli_usage_error(given, "unknown option: see consort %s --help", syntax->command);
}

/* ---- values ---- */

static bool is_choice(const char *choices, const char *word) {
  const size_t word_bytes = strlen(word);
  for (const char *choice = choices; *choice;) {
    const size_t bytes = strcspn(choice, "|");
    if (bytes == word_bytes && memcmp(choice, word, bytes) == 0) return true;
    choice += bytes + (choice[bytes] == '|');
  }
  return false;
}

static bool in_range(const cli_option *option, double value) {
  if (option->minimum == 0 && option->maximum == 0) return true;
  return value >= option->minimum && value <= option->maximum;
}

static int bad_number(const cli_option *option, const char *shown, const char *text) {
  const char *kind = option->kind == CLI_OPTION_NUMBER ? "number" : "whole number";
  if (option->minimum == 0 && option->maximum == 0)
    return cli_usage_error(shown, "\"%s\" is not a %s that fits", text, kind);
  return cli_usage_error(shown, "\"%s\" is not a %s from %.10g to %.10g", text, kind,
                         option->minimum, option->maximum);
}

static int set_value(const cli_option *option, const char *shown, const char *text) {
  uint64_t whole;
  double number;
  switch (option->kind) {
  case CLI_OPTION_FLAG:
    *(bool *)option->value = true;
    return CLI_DONE;
  case CLI_OPTION_STRING:
    if (option->choices && !is_choice(option->choices, text))
      return cli_usage_error(shown, "\"%s\" is none of %s", text, option->choices);
    *(const char **)option->value = text;
    return CLI_DONE;
  case CLI_OPTION_STRINGS: {
    cli_strings *const strings = option->value;
    if (strings->n == CLI_MAX_STRINGS)
      return cli_usage_error(shown, "is given more than %d times", CLI_MAX_STRINGS);
    strings->items[strings->n++] = text;
    return CLI_DONE;
  }
  case CLI_OPTION_COUNT:
    if (!cli_parse_u64(text, &whole) || whole > UINT32_MAX || !in_range(option, (double)whole))
      return bad_number(option, shown, text);
    *(uint32_t *)option->value = (uint32_t)whole;
    return CLI_DONE;
  case CLI_OPTION_SEED:
    if (!cli_parse_u64(text, &whole)) return bad_number(option, shown, text);
    *(uint64_t *)option->value = whole;
    return CLI_DONE;
  case CLI_OPTION_NUMBER:
    if (!cli_parse_double(text, &number) || !in_range(option, number))
      return bad_number(option, shown, text);
    *(double *)option->value = number;
    return CLI_DONE;
  }
  return CLI_USAGE;
}

/* ---- help ---- */

static void print_option(const cli_option *option) {
  char left[64];
  const char *argument = option->argument ? option->argument : "";
  if (option->letter && option->name)
    snprintf(left, sizeof left, "-%c, --%s %s", option->letter, option->name, argument);
  else
    snprintf(left, sizeof left, "    --%s %s", option->name, argument);
  printf("  %-30s %s", left, option->help);
  if (option->choices) printf(" (%s)", option->choices);
  printf("\n");
}

static void print_help(const cli_syntax *syntax) {
  printf("usage: consort %s %s\n\n%s\n\n", syntax->command, syntax->usage, syntax->summary);
  for (size_t i = 0; i < syntax->n_options; i++)
    print_option(&syntax->options[i]);
  printf("  %-30s %s\n", "-h, --help", "show this text");
}

/* ---- parsing ---- */

/* The option that argv[*at] names; *text is the value that stands in the same word, or NULL. */
static const cli_option *find_option(const cli_syntax *syntax, const char *word,
                                     const char **text) {
  *text = NULL;
  for (size_t i = 0; i < syntax->n_options; i++) {
    const cli_option *option = &syntax->options[i];
    if (word[1] != '-') {
      if (option->letter != word[1]) continue;
      *text = word[2] ? word + 2 : NULL;
      return option;
    }
    const size_t bytes = strlen(option->name);
    if (strncmp(word + 2, option->name, bytes) != 0) continue;
    if (word[2 + bytes] != '\0' && word[2 + bytes] != '=') continue;
    *text = word[2 + bytes] ? word + 3 + bytes : NULL;
    return option;
  }
  return NULL;
}

static int parse_option(const cli_syntax *syntax, int argc, char **argv, int *at) {
  const char *word = argv[*at], *text;
  const cli_option *option = find_option(syntax, word, &text);
  if (!option) return unknown_option(syntax, word);
  char shown[MAX_WORD + 8];
  if (word[1] == '-')
    snprintf(shown, sizeof shown, "--%s", option->name);
  else
    snprintf(shown, sizeof shown, "-%c", option->letter);
  if (option->kind == CLI_OPTION_FLAG) {
    if (text) return cli_usage_error(shown, "takes no value");
    return set_value(option, shown, NULL);
  }
  if (!text) {
    if (*at + 1 == argc) return cli_usage_error(shown, "needs a value (%s)", option->argument);
    text = argv[++*at];
  }
  return set_value(option, shown, text);
}

bool cli_options_parse(const cli_syntax *syntax, int argc, char **argv, int *exit_status) {
  size_t n_operands = 0;
  bool only_operands = false;
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    if (only_operands || word[0] != '-' || word[1] == '\0') {
      if (n_operands == syntax->n_operands) {
        *exit_status =
            cli_usage_error(word, "unexpected argument: see consort %s --help", syntax->command);
        return false;
      }
      *syntax->operands[n_operands++].value = word;
    } else if (strcmp(word, "--") == 0) {
      only_operands = true;
    } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      print_help(syntax);
      *exit_status = cli_finish_output();
      return false;
    } else if ((*exit_status = parse_option(syntax, argc, argv, &i)) != CLI_DONE) {
      return false;
    }
  }
  for (; n_operands < syntax->n_operands; n_operands++) {
    if (syntax->operands[n_operands].optional) continue;
    *exit_status = cli_usage_error(syntax->command, "%s is missing: see consort %s --help",
                                   syntax->operands[n_operands].name, syntax->command);
    return false;
  }
  return true;
}
