/* The list of cases. Both processes build the same list before the plugin is loaded. */
#ifndef KIT_REGISTRY_H
#define KIT_REGISTRY_H

#include "kit.h"

typedef struct kit_registry {
  kit_case *cases;
  size_t n_cases;
  size_t capacity;
  const char *only; /* patterns with * and ?, separated by commas: the wanted cases; NULL: all */
  bool *wanted;     /* one a case */
} kit_registry;

/* Appends a case named by the format. */
void kit_add(kit_registry *registry, const kit_case *c, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Every case there is, in the order they run; with `pair` also those of two plugins at once. `only`
 * stays borrowed. */
void kit_registry_init(kit_registry *registry, const char *only, bool pair);
void kit_registry_finish(kit_registry *registry);

#define KIT_PATTERN_BYTES 128

/* * stands for any text, ? for one character. */
bool kit_pattern_matches(const char *pattern, const char *name);
/* Whether one of several, separated by commas and shorter than KIT_PATTERN_BYTES, matches. */
bool kit_patterns_match(const char *patterns, const char *name);

/* The formats of matrices, and the badges that one needs for them. */
typedef struct kit_weight_format {
  uint32_t dtype, badges;
} kit_weight_format;
#define KIT_N_WEIGHT_FORMATS 15
extern const kit_weight_format kit_weight_formats[KIT_N_WEIGHT_FORMATS];

/* Each file of cases appends its own. */
void kit_add_negotiation_cases(kit_registry *registry);
void kit_add_lifecycle_cases(kit_registry *registry);
void kit_add_memory_cases(kit_registry *registry);
void kit_add_stream_cases(kit_registry *registry);
void kit_add_semaphore_cases(kit_registry *registry);
void kit_add_thread_cases(kit_registry *registry);
void kit_add_query_cases(kit_registry *registry);
void kit_add_row_cases(kit_registry *registry);
void kit_add_value_cases(kit_registry *registry);
void kit_add_matmul_cases(kit_registry *registry);
void kit_add_kv_cases(kit_registry *registry);
void kit_add_attention_cases(kit_registry *registry);
void kit_add_moe_cases(kit_registry *registry);
void kit_add_program_cases(kit_registry *registry);
void kit_add_external_cases(kit_registry *registry);
void kit_add_peer_cases(kit_registry *registry);
void kit_add_profile_cases(kit_registry *registry);
void kit_add_weights_map_cases(kit_registry *registry);
void kit_add_model_cases(kit_registry *registry);
void kit_add_soak_cases(kit_registry *registry);
void kit_add_pair_cases(kit_registry *registry);

/* ---- badges: badges.c ---- */

const char *kit_badge_name(size_t index); /* 0 to KIT_N_BADGES - 1 */
/* The bits of a list like "Core,LLM-dense"; false on an unknown name. */
bool kit_badges_parse(const char *list, uint32_t *bits);
/* The badges that the results on the board earn: every case of the badge ran and passed. */
uint32_t kit_badges_earned(const kit_registry *registry, const kit_board *board);

#endif
