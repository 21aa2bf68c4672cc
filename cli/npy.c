/* The header is padded with blanks so that the values start at a multiple of 64 bytes, as the
 * format asks; values are written as they lie in memory, which is little-endian on every machine
 * that plugins are built for. */
#include "cli/npy.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/report.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "values would be written in the wrong byte order"
#endif

#define HEADER_BYTES   128
#define PREAMBLE_BYTES 10 /* magic, version, length of the text */

int cli_npy_write(const char *path, const float *values, size_t n_rows, size_t n_columns) {
  char header[HEADER_BYTES + 1] = "\x93NUMPY\x01\x00";
  const uint16_t text_bytes = HEADER_BYTES - PREAMBLE_BYTES;
  memcpy(header + 8, &text_bytes, sizeof text_bytes);
  const int used = snprintf(header + PREAMBLE_BYTES, text_bytes,
                            "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                            n_rows, n_columns);
  memset(header + PREAMBLE_BYTES + used, ' ', text_bytes - (size_t)used);
  header[HEADER_BYTES - 1] = '\n';

  FILE *file = fopen(path, "wb");
  if (!file) return cli_error(path, "cannot be written: %s", strerror(errno));
  errno = 0;
  const int written = fwrite(header, 1, HEADER_BYTES, file) == HEADER_BYTES &&
                      fwrite(values, sizeof *values * n_columns, n_rows, file) == n_rows;
  const int write_error = errno;
  if (fclose(file) == 0 && written) return CLI_DONE;
  const int why = written ? errno : write_error;
  remove(path);
  return cli_error(path, "cannot be written: %s", strerror(why));
}
