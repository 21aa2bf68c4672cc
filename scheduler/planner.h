/* The planner: measures devices and says which should prefill and which should decode. */
#ifndef SCHEDULER_PLANNER_H
#define SCHEDULER_PLANNER_H

#include <stdint.h>

#include "consort/consort.h"

/* Chooses a prefill and a decode device for requests of n_prompt and n_output tokens (0: the
 * defaults of consort_plan_options) among those present; a name in fixed_* (may be NULL) is taken
 * as it is. `reason` is one line, empty when both were fixed. Measurements are cached by device
 * and driver version. */
cs_status cs_planner_choose(consort_runtime *runtime, const consort_model *model, uint32_t n_prompt,
                            uint32_t n_output, const char *fixed_prefill, const char *fixed_decode,
                            char prefill[64], char decode[64], char reason[256], cs_error *error);

#endif
