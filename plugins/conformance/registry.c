/* Cases are appended by each file of cases, in the order in which a new chip would bring them up:
 * first the contract's own machinery, then ops, then whole models. */
#include "registry.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const kit_weight_format kit_weight_formats[KIT_N_WEIGHT_FORMATS] = {
    {CS_DTYPE_F32, KIT_BADGE_LLM_DENSE},
    {CS_DTYPE_F16, KIT_BADGE_LLM_DENSE},
    {CS_DTYPE_BF16, KIT_BADGE_LLM_DENSE},
    {CS_DTYPE_Q8_0, KIT_BADGE_LLM_QUANT},
    {CS_DTYPE_Q4_0, KIT_BADGE_LLM_QUANT},
    {CS_DTYPE_Q4_1, 0},
    {CS_DTYPE_Q5_0, 0},
    {CS_DTYPE_Q5_1, 0},
    {CS_DTYPE_Q2_K, 0},
    {CS_DTYPE_Q3_K, 0},
    {CS_DTYPE_Q4_K, 0},
    {CS_DTYPE_Q5_K, 0},
    {CS_DTYPE_Q6_K, 0},
    {CS_DTYPE_IQ4_NL, 0},
    {CS_DTYPE_IQ4_XS, 0}};

bool kit_pattern_matches(const char *pattern, const char *name) {
  for (; *pattern; pattern++, name++) {
    if (*pattern == '*') {
      for (;; name++) {
        if (kit_pattern_matches(pattern + 1, name)) return true;
        if (!*name) return false;
      }
    }
    if (!*name || (*pattern != '?' && *pattern != *name)) return false;
  }
  return !*name;
}

bool kit_patterns_match(const char *patterns, const char *name) {
  char one[KIT_PATTERN_BYTES];
  while (*patterns) {
    const size_t length = strcspn(patterns, ",");
    snprintf(one, sizeof one, "%.*s", (int)length, patterns);
    if (length < sizeof one && kit_pattern_matches(one, name)) return true;
    patterns += length + (patterns[length] == ',');
  }
  return false;
}

static void grow(kit_registry *registry) {
  registry->capacity = registry->capacity ? 2 * registry->capacity : 256;
  kit_case *cases = realloc(registry->cases, registry->capacity * sizeof *cases);
  bool *wanted = realloc(registry->wanted, registry->capacity * sizeof *wanted);
  if (!cases || !wanted) {
    fprintf(stderr, "consort-cts: error: no memory for the list of cases\n");
    exit(1);
  }
  registry->cases = cases;
  registry->wanted = wanted;
}

void kit_add(kit_registry *registry, const kit_case *c, const char *format, ...) {
  if (registry->n_cases == registry->capacity) grow(registry);
  kit_case *copy = &registry->cases[registry->n_cases];
  *copy = *c;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(copy->name, sizeof copy->name, format, arguments);
  va_end(arguments);
  registry->wanted[registry->n_cases] =
      !registry->only || kit_patterns_match(registry->only, copy->name);
  registry->n_cases++;
}

void kit_registry_init(kit_registry *registry, const char *only, bool pair) {
  *registry = (kit_registry){.only = only};
  kit_add_negotiation_cases(registry);
  kit_add_lifecycle_cases(registry);
  kit_add_memory_cases(registry);
  kit_add_stream_cases(registry);
  kit_add_semaphore_cases(registry);
  kit_add_thread_cases(registry);
  kit_add_query_cases(registry);
  kit_add_row_cases(registry);
  kit_add_value_cases(registry);
  kit_add_matmul_cases(registry);
  kit_add_kv_cases(registry);
  kit_add_attention_cases(registry);
  kit_add_moe_cases(registry);
  kit_add_program_cases(registry);
  kit_add_external_cases(registry);
  kit_add_peer_cases(registry);
  kit_add_profile_cases(registry);
  kit_add_weights_map_cases(registry);
  kit_add_model_cases(registry);
  kit_add_soak_cases(registry);
  if (pair) kit_add_pair_cases(registry);
}

void kit_registry_finish(kit_registry *registry) {
  free(registry->cases);
  free(registry->wanted);
  *registry = (kit_registry){0};
}
