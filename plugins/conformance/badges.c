/* A badge is a claim about every case that bears its bit, so a case that was filtered out, waived
 * or answered with "unsupported" withholds it. */
#include "registry.h"

#include <string.h>

static const char *const badge_names[KIT_N_BADGES] = {"Core", "LLM-dense", "LLM-quant", "MoE",
                                                      "Disaggregated"};

const char *kit_badge_name(size_t index) {
  return badge_names[index];
}

bool kit_badges_parse(const char *list, uint32_t *bits) {
  *bits = 0;
  while (*list) {
    const size_t length = strcspn(list, ",");
    size_t index = 0;
    while (index < KIT_N_BADGES &&
           (strlen(badge_names[index]) != length || strncmp(badge_names[index], list, length) != 0))
      index++;
    if (index == KIT_N_BADGES) return false;
    *bits |= UINT32_C(1) << index;
    list += length;
    if (*list == ',') list++;
  }
  return *bits != 0;
}

uint32_t kit_badges_earned(const kit_registry *registry, const kit_board *board) {
  uint32_t earned = (UINT32_C(1) << KIT_N_BADGES) - 1;
  for (size_t i = 0; i < registry->n_cases; i++) {
    if (board->results[i].status == KIT_PASSED) continue;
    const uint32_t badges = registry->cases[i].badges;
    if (badges & KIT_BADGE_CORE) return 0;
    earned &= ~badges;
  }
  return earned;
}
