/* NumPy's .npy files, version 1.0 (numpy.lib.format). */
#ifndef CLI_NPY_H
#define CLI_NPY_H

#include <stddef.h>

/* Writes float32 values of shape (n_rows, n_columns), little-endian, row-major. CLI_DONE, or
 * CLI_FAILED after an error line that names the file; a file that could not be finished is
 * removed. */
int cli_npy_write(const char *path, const float *values, size_t n_rows, size_t n_columns);

#endif
