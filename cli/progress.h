/* Progress of bytes on a terminal: one line that rewrites itself, cleared at the end. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdint.h>

/* Draws "WHAT [####....]  40 % of 1.0 GiB" on standard error when the percentage differs from
 * *last_percent, which begins at -1. With all bytes done the line is cleared. */
void cli_progress_show(const char *what, uint64_t bytes_done, uint64_t bytes_total,
                       int *last_percent);
/* Clears a line that is shown. */
void cli_progress_clear(int *last_percent);

#endif
