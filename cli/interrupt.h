/* Ctrl-C: ends what a command does in order, and not the program. */
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

#include <signal.h>

/* Not 0 once the user has asked for an end; the only thing that the signal handler reaches. */
extern volatile sig_atomic_t cli_interrupted;

/* From here to cli_interrupt_end the first Ctrl-C sets cli_interrupted, and a second one ends the
 * program. *previous holds what was in force before. */
void cli_interrupt_begin(struct sigaction *previous);
void cli_interrupt_end(const struct sigaction *previous);

#endif
