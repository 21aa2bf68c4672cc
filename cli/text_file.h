/* Text files read whole. */
#ifndef CLI_TEXT_FILE_H
#define CLI_TEXT_FILE_H

#include <stddef.h>

/* The file's bytes and a zero behind them, for free(); n_bytes may be NULL. Returns CLI_DONE, or
 * CLI_FAILED after an error line that names the file and the reason; *text is NULL then. */
int cli_read_text(const char *path, size_t max_bytes, char **text, size_t *n_bytes);

#endif
