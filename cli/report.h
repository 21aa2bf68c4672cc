/* What the program says: one line an error, text and JSON on standard output. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "consort/consort.h"

/* Prints "consort: error: WHAT: WHY" and returns CLI_USAGE or CLI_FAILED. */
int cli_usage_error(const char *what, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int cli_error(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for a failure that the library reported; `what` is left out when the message begins
 * with it already. Returns CLI_FAILED. */
int cli_library_error(const char *what, const cs_error *error);

/* Flushes standard output: CLI_DONE, CLI_BROKEN_PIPE without a word, or CLI_FAILED after an error
 * line. */
int cli_finish_output(void);

/* Prints one object and flushes. Takes the reference; NULL is out of memory. */
int cli_print_json(json_t *object);

/* Text of any bytes: what is no UTF-8 becomes U+FFFD. NULL text is null. */
json_t *cli_json_text(const char *text, size_t text_bytes);
json_t *cli_json_string(const char *text);
/* null when not finite. */
json_t *cli_json_number(double value);

#define CLI_BYTES_TEXT 16
/* "1.5 GiB" into `out`, which is returned. */
char *cli_format_bytes(uint64_t bytes, char out[CLI_BYTES_TEXT]);

#endif
