/* Known failures that a run may have: lines "PATTERN: REASON" in a file. */
#ifndef KIT_WAIVERS_H
#define KIT_WAIVERS_H

#include "registry.h"

/* Marks failed cases that a line waives, and names each line that waived none: a waiver that is no
 * longer needed is itself a failure. False when the file cannot be read or a line has no reason.
 * Writes one line a problem to standard error; *n_unneeded counts the lines without use. */
bool kit_apply_waivers(const char *path, const kit_registry *registry, kit_board *board,
                       uint32_t *n_unneeded);

#endif
