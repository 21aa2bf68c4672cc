/* The handler stands for one signal: whoever does not see the first in time can send another. */
#include "cli/interrupt.h"

volatile sig_atomic_t cli_interrupted;

static void on_interrupt(int number) {
  (void)number;
  cli_interrupted = 1;
}

void cli_interrupt_begin(struct sigaction *previous) {
  const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
  sigaction(SIGINT, &action, previous);
}

void cli_interrupt_end(const struct sigaction *previous) {
  sigaction(SIGINT, previous, NULL);
}
