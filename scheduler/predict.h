/* Predicts what a placement would do, from profiles alone: no device is touched. */
#ifndef SCHEDULER_PREDICT_H
#define SCHEDULER_PREDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/profile.h"

/* What one token, one pair of positions and the whole model cost. */
typedef struct cs_model_costs {
  uint64_t matmul_parameters; /* 2 FLOP each for each token */
  uint64_t matmul_bytes;      /* weights that a decode step reads */
  uint64_t weight_bytes;      /* all of them, resident on each side */
  uint64_t kv_bytes_per_token;
  double attention_flop_per_pair; /* for each query and key position, over all layers */
  uint32_t n_layers;
  uint32_t n_ops; /* of one forward pass */
} cs_model_costs;

typedef struct cs_workload {
  uint32_t n_prompt; /* tokens; at least 1, like the next */
  uint32_t n_output;
  uint32_t n_context; /* tokens that the KV cache holds */
  double slo_ttft_ms; /* 0: none */
  double slo_tpot_ms;
  double rate; /* requests a second; 0: one at a time */
} cs_workload;

typedef struct cs_stage_device {
  cs_device_profile profile;
  const char *memory_domain; /* empty: its own */
  const char *compute_domain;
  uint64_t memory_bytes; /* that it may use */
} cs_stage_device;

typedef struct cs_prediction {
  double ttft_ms; /* infinite where a stage does not run there at all */
  double tpot_ms;
  double total_ms;    /* of one request */
  double transfer_ms; /* of ttft_ms: KV transfer that prefill does not hide */
  double goodput;     /* requests a second within the SLOs, without batching */
  uint64_t memory_bytes;
  bool fits;
  bool meets_slo;
  bool keeps_up;    /* with the rate */
  const char *note; /* static; empty when there is nothing to say against it */
} cs_prediction;

/* One placement; the same pointer twice is one device for both stages. */
void cs_predict(const cs_model_costs *costs, const cs_workload *workload,
                const cs_stage_device *prefill, const cs_stage_device *decode, cs_prediction *out);

/* The index of the best of n > 0: among those that fit, keep up and meet the SLOs, as far as any
 * does (in that order), the one with the shortest total time. */
size_t cs_predict_best(const cs_prediction *predictions, size_t n);

#endif
