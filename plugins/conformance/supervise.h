/* Runs the cases in a child process that alone loads the plugin, so that a crash or a hang of the
 * plugin costs one case and not the run. */
#ifndef KIT_SUPERVISE_H
#define KIT_SUPERVISE_H

#include "registry.h"

/* A board for the registry in shared memory; NULL when there is none. */
kit_board *kit_board_create(const kit_registry *registry);
void kit_board_destroy(kit_board *board, const kit_registry *registry);

/* Called in the supervising process as soon as a case has a result. */
typedef void (*kit_progress_fn)(void *user, const kit_case *c, const kit_result *result);

/* Runs every wanted case; false when the plugin could not be started (board->setup_error). */
bool kit_supervise(const kit_options *options, const kit_registry *registry, kit_board *board,
                   kit_progress_fn progress, void *user);

#endif
