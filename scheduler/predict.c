/* The model is a roofline with launch costs: a step takes what its arithmetic or its bytes take,
 * whichever is longer, and each op costs its launch on top. That is coarse, but the errors are
 * alike on both sides of a comparison, and a comparison is all that a choice needs.
 *
 * Transfer goes layer by layer while prefill runs, so that only its tail shows, unless both sides
 * share the cores that would have to do two things at once. */
#include "scheduler/predict.h"

#include <math.h>
#include <string.h>

#define STEP_TOKENS 512 /* tokens a prefill step */

static double max_of(double a, double b) {
  return a > b ? a : b;
}

/* Work over rate; infinite when there is work and no rate. */
static double seconds_for(double work, double rate) {
  if (work <= 0) return 0;
  return rate > 0 ? work / rate : INFINITY;
}

static double launch_seconds(const cs_model_costs *costs, const cs_device_profile *profile) {
  return 1e-6 * (costs->n_ops * profile->op_us + profile->step_us);
}

static double weights_seconds(const cs_model_costs *costs, const cs_device_profile *profile) {
  const bool cached = costs->matmul_bytes <= CS_PROFILE_CACHED_BYTES;
  return seconds_for((double)costs->matmul_bytes,
                     cached ? profile->matvec_cached_bytes_per_s : profile->matvec_bytes_per_s);
}

static double prefill_seconds(const cs_model_costs *costs, const cs_device_profile *profile,
                              uint32_t n_tokens) {
  if (n_tokens == 0) return 0;
  const double n = n_tokens;
  const double n_steps = ceil(n / STEP_TOKENS);
  const double arithmetic =
      seconds_for(2.0 * (double)costs->matmul_parameters * n, profile->matmul_flop_per_s);
  const double attention = seconds_for(0.5 * n * (n + 1) * costs->attention_flop_per_pair,
                                       profile->attention_flop_per_s);
  return max_of(arithmetic, n_steps * weights_seconds(costs, profile)) + attention +
         n_steps * launch_seconds(costs, profile);
}

/* One token at the mean length of the answer. */
static double decode_seconds(const cs_model_costs *costs, const cs_device_profile *profile,
                             const cs_workload *workload) {
  const double n_keys = workload->n_prompt + 0.5 * workload->n_output;
  const double kv_bytes = n_keys * (double)costs->kv_bytes_per_token;
  const double attention =
      max_of(seconds_for(kv_bytes, profile->matvec_bytes_per_s),
             seconds_for(n_keys * costs->attention_flop_per_pair, profile->attention_flop_per_s));
  return weights_seconds(costs, profile) + attention + launch_seconds(costs, profile);
}

static bool same_domain(const char *a, const char *b) {
  return a[0] != '\0' && strcmp(a, b) == 0;
}

/* KV transfer of n_tokens that shows after `hidden_by` seconds of prefill. */
static double exposed_seconds(const cs_model_costs *costs, const cs_stage_device *prefill,
                              const cs_stage_device *decode, uint32_t n_tokens, double hidden_by) {
  const double bytes = (double)costs->kv_bytes_per_token * n_tokens;
  const double n_layers = costs->n_layers;
  const double whole = seconds_for(bytes, prefill->profile.download_bytes_per_s) +
                       seconds_for(bytes, decode->profile.upload_bytes_per_s) +
                       1e-6 * n_layers * (prefill->profile.latency_us + decode->profile.latency_us);
  if (same_domain(prefill->compute_domain, decode->compute_domain)) return whole;
  return max_of(whole / n_layers, whole - hidden_by * (n_layers - 1) / n_layers);
}

static bool fits(const cs_model_costs *costs, const cs_workload *workload,
                 const cs_stage_device *prefill, const cs_stage_device *decode,
                 uint64_t *memory_bytes) {
  const double one_side =
      (double)costs->weight_bytes + (double)costs->kv_bytes_per_token * (double)workload->n_context;
  const bool shared =
      prefill != decode && same_domain(prefill->memory_domain, decode->memory_domain);
  const double both = prefill == decode ? one_side : 2 * one_side;
  *memory_bytes = (uint64_t)both;
  const double needed = shared ? both : one_side;
  return needed <= (double)prefill->memory_bytes && needed <= (double)decode->memory_bytes;
}

static const char *objection(const cs_prediction *prediction) {
  if (!prediction->fits) return "does not fit";
  if (!isfinite(prediction->total_ms)) return "an op is missing there";
  if (!prediction->keeps_up) return "cannot keep up with the rate";
  if (!prediction->meets_slo) return "misses the SLO";
  return "";
}

void cs_predict(const cs_model_costs *costs, const cs_workload *workload,
                const cs_stage_device *prefill, const cs_stage_device *decode, cs_prediction *out) {
  const bool one_device = prefill == decode;
  /* Across devices the decode side computes the last position itself. */
  const uint32_t n_prefilled = one_device ? workload->n_prompt : workload->n_prompt - 1;
  const double filling = prefill_seconds(costs, &prefill->profile, n_prefilled);
  const double step = decode_seconds(costs, &decode->profile, workload);
  const double exposed =
      one_device ? 0 : exposed_seconds(costs, prefill, decode, n_prefilled, filling);
  const double ttft = filling + exposed + (one_device ? 0 : step);
  const double answering = step * (workload->n_output - 1);
  const bool at_once = !one_device && !same_domain(prefill->compute_domain, decode->compute_domain);
  const double busy = at_once ? max_of(filling, ttft - filling + answering) : ttft + answering;

  *out = (cs_prediction){.ttft_ms = ttft * 1e3,
                         .tpot_ms = step * 1e3,
                         .total_ms = (ttft + answering) * 1e3,
                         .transfer_ms = exposed * 1e3};
  out->fits = fits(costs, workload, prefill, decode, &out->memory_bytes);
  out->meets_slo = (workload->slo_ttft_ms <= 0 || out->ttft_ms <= workload->slo_ttft_ms) &&
                   (workload->slo_tpot_ms <= 0 || out->tpot_ms <= workload->slo_tpot_ms);
  const double capacity = 1 / busy;
  out->keeps_up = workload->rate <= capacity;
  out->goodput = workload->rate > 0 && workload->rate < capacity ? workload->rate : capacity;
  if (!out->fits || !out->meets_slo) out->goodput = 0;
  out->note = objection(out);
}

/* How many of the demands are met, the most important first. */
static int rank(const cs_prediction *prediction) {
  return 4 * prediction->fits + 2 * prediction->keeps_up + prediction->meets_slo;
}

size_t cs_predict_best(const cs_prediction *predictions, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; i++) {
    const cs_prediction *a = &predictions[i], *b = &predictions[best];
    if (rank(a) > rank(b)) best = i;
    if (rank(a) != rank(b)) continue;
    if (a->total_ms < b->total_ms || (a->total_ms == b->total_ms && a->tpot_ms < b->tpot_ms))
      best = i;
  }
  return best;
}
