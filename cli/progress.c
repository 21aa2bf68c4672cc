/* Drawing only on a change keeps a fast load from spending its time on the terminal. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>

#include "cli/report.h"

#define BAR_WIDTH 30

void cli_progress_clear(int *last_percent) {
  if (*last_percent >= 0) fprintf(stderr, "\r\033[K");
  fflush(stderr);
  *last_percent = -1;
}

void cli_progress_show(const char *what, uint64_t bytes_done, uint64_t bytes_total,
                       int *last_percent) {
  const int percent = bytes_total ? (int)((double)bytes_done * 100 / (double)bytes_total) : 100;
  if (percent == *last_percent && bytes_done < bytes_total) return;
  *last_percent = percent;
  char total[CLI_BYTES_TEXT], bar[BAR_WIDTH + 1];
  const int filled = (percent < 100 ? percent : 100) * BAR_WIDTH / 100;
  memset(bar, '#', (size_t)filled);
  memset(bar + filled, '.', (size_t)(BAR_WIDTH - filled));
  bar[BAR_WIDTH] = '\0';
  fprintf(stderr, "\r%s [%s] %3d %% of %s\033[K", what, bar, percent,
          cli_format_bytes(bytes_total, total));
  fflush(stderr);
  if (bytes_done >= bytes_total) cli_progress_clear(last_percent);
}
