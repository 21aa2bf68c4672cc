/* An error is always exactly one line: control characters in file names and messages are shown as
 * question marks, so that scripts can rely on it. */
#include "cli/report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

#define ERROR_LINE_BYTES 1024

static void print_error(const char *what, const char *why) {
  char line[ERROR_LINE_BYTES];
  snprintf(line, sizeof line, "%s: %s", what, why);
  for (char *c = line; *c; c++)
    if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
  fprintf(stderr, "consort: error: %s\n", line);
}

int cli_usage_error(const char *what, const char *format, ...) {
  char why[ERROR_LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof why, format, arguments);
  va_end(arguments);
  print_error(what, why);
  return CLI_USAGE;
}

int cli_error(const char *what, const char *format, ...) {
  char why[ERROR_LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof why, format, arguments);
  va_end(arguments);
  print_error(what, why);
  return CLI_FAILED;
}

int cli_library_error(const char *what, const cs_error *error) {
  const char *why = error->message[0] ? error->message : consort_status_name(error->code);
  const size_t what_bytes = strlen(what);
  if (strncmp(why, what, what_bytes) == 0 && strncmp(why + what_bytes, ": ", 2) == 0)
    why += what_bytes + 2;
  print_error(what, why);
  return CLI_FAILED;
}

int cli_finish_output(void) {
  const int failed = ferror(stdout);
  errno = 0;
  if (fflush(stdout) == 0 && !failed) return CLI_DONE;
  if (errno == EPIPE || (failed && errno == 0)) return CLI_BROKEN_PIPE;
  return cli_error("standard output", "%s", strerror(errno));
}

int cli_print_json(json_t *object) {
  if (!object) return cli_error("JSON", "out of memory");
  json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
  putchar('\n');
  json_decref(object);
  return cli_finish_output();
}

/* Bytes of the UTF-8 character that starts at `at`, 0 when there is none (RFC 3629). */
static size_t utf8_bytes(const unsigned char *at, size_t left) {
  if (at[0] < 0x80) return 1;
  const size_t n = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
  if (at[0] < 0xc2 || at[0] > 0xf4 || n > left) return 0;
  for (size_t i = 1; i < n; i++)
    if ((at[i] & 0xc0) != 0x80) return 0;
  if (at[0] == 0xe0 && at[1] < 0xa0) return 0; /* overlong */
  if (at[0] == 0xed && at[1] > 0x9f) return 0; /* surrogate */
  if (at[0] == 0xf0 && at[1] < 0x90) return 0;
  if (at[0] == 0xf4 && at[1] > 0x8f) return 0;
  return n;
}

json_t *cli_json_text(const char *text, size_t text_bytes) {
  if (!text) return json_null();
  char *clean = malloc(text_bytes * 3 + 1);
  if (!clean) return NULL;
  size_t used = 0;
  for (size_t i = 0; i < text_bytes;) {
    const size_t n = utf8_bytes((const unsigned char *)text + i, text_bytes - i);
    memcpy(clean + used, n ? text + i : "\xef\xbf\xbd", n ? n : 3);
    used += n ? n : 3;
    i += n ? n : 1;
  }
  json_t *result = json_stringn_nocheck(clean, used);
  free(clean);
  return result;
}

json_t *cli_json_string(const char *text) {
  return cli_json_text(text, text ? strlen(text) : 0);
}

json_t *cli_json_number(double value) {
  return isfinite(value) ? json_real(value) : json_null();
}

char *cli_format_bytes(uint64_t bytes, char out[CLI_BYTES_TEXT]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = (double)bytes;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
    value /= 1024;
  snprintf(out, CLI_BYTES_TEXT, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return out;
}
