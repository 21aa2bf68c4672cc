/* Every ordered pair of devices is a candidate, one device for both stages included: unlike chips
 * do not make a split worth its transfer by themselves, and the planner says so when they do not.
 */
#include "scheduler/planner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/log.h"
#include "models/forward.h"
#include "scheduler/facade.h"
#include "scheduler/predict.h"
#include "scheduler/structs.h"
#include "scheduler/worker_build.h"

#define MAX_DEVICES  32
#define SPEC_BYTES   64
#define REASON_BYTES 256

#define USUAL_PROMPT 512
#define USUAL_OUTPUT 128

/* A device that may be chosen. */
typedef struct planned_device {
  char spec[SPEC_BYTES]; /* as it was asked for, options included */
  cs_device *device;     /* one reference */
  cs_stage_device stage;
} planned_device;

struct consort_plan {
  planned_device devices[MAX_DEVICES];
  size_t n_devices;
  bool named; /* devices were listed, so one that cannot be used is an error */
  cs_model_costs costs;
  cs_workload workload;
  uint32_t dtype; /* of most weights */
  struct {
    uint32_t prefill; /* indices into devices */
    uint32_t decode;
  } * pairs; /* (n_candidates) */
  cs_prediction *predictions;
  size_t n_candidates;
  size_t best;
  char reason[REASON_BYTES];
};

/* ---- the model's costs ---- */

static cs_status count_ops(const cs_model *model, uint32_t *n_ops, cs_error *error) {
  const cs_forward_shape shape = {.n_tokens = 1,
                                  .n_seqs = 1,
                                  .max_blocks = 1,
                                  .n_logit_rows = 1,
                                  .goal = CS_FORWARD_ARGMAX,
                                  .kv_dtype = CS_DTYPE_F16,
                                  .kv_layout = CS_LAYOUT_KV_TOKEN_MAJOR,
                                  .kv_block_tokens = 16,
                                  .kv_n_blocks = 1};
  cs_op_list *list;
  const cs_status status = cs_forward_emit(model, &shape, &list, error);
  if (status != CS_OK) return status;
  *n_ops = (uint32_t)cs_op_list_n_ops(list);
  cs_op_list_destroy(list);
  return CS_OK;
}

static cs_status read_costs(const cs_model *model, uint32_t kv_dtype, cs_model_costs *costs,
                            cs_error *error) {
  const cs_model_config *config = cs_model_get_config(model);
  *costs = (cs_model_costs){
      .matmul_parameters = cs_model_matmul_parameters(model),
      .weight_bytes = cs_model_weight_bytes(model),
      .kv_bytes_per_token = cs_model_kv_bytes_per_token(model, kv_dtype),
      .attention_flop_per_pair =
          2.0 * config->n_layers * config->n_heads * (config->k_width + config->v_width),
      .n_layers = config->n_layers,
  };
  for (size_t i = 0; i < cs_model_n_weights(model); i++) {
    const cs_model_weight *weight = cs_model_weight_at(model, i);
    if (weight->usage & CS_USAGE_MATMUL) costs->matmul_bytes += weight->bytes;
  }
  return count_ops(model, &costs->n_ops, error);
}

/* ---- devices ---- */

static planned_device *find_device(consort_plan *plan, const char *spec) {
  for (size_t i = 0; i < plan->n_devices; i++)
    if (strcmp(plan->devices[i].spec, spec) == 0) return &plan->devices[i];
  return NULL;
}

static cs_status add_device(consort_plan *plan, cs_runtime *runtime, const char *spec,
                            cs_error *error) {
  if (find_device(plan, spec)) return CS_OK;
  if (strlen(spec) >= SPEC_BYTES)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%.80s\": the name is too long", spec);
  if (plan->n_devices == MAX_DEVICES)
    return cs_error_set(error, CS_EXHAUSTED, "more than %d devices to plan for", MAX_DEVICES);
  planned_device *added = &plan->devices[plan->n_devices];
  const cs_status status = cs_device_open(runtime, spec, &added->device, error);
  if (status != CS_OK) return status;
  const cs_device_properties *properties = cs_device_get_properties(added->device);
  memcpy(added->spec, spec, strlen(spec) + 1);
  added->stage = (cs_stage_device){
      .memory_domain = properties->memory_domain,
      .compute_domain = properties->compute_domain,
      .memory_bytes =
          properties->memory_free_bytes ? properties->memory_free_bytes : properties->memory_bytes,
  };
  plan->n_devices++;
  return CS_OK;
}

static void drop_last_device(consort_plan *plan) {
  planned_device *last = &plan->devices[--plan->n_devices];
  cs_device_release(last->device);
  *last = (planned_device){0};
}

/* "NAME:0,NAME:1" */
static cs_status add_listed(consort_plan *plan, cs_runtime *runtime, const char *list,
                            cs_error *error) {
  cs_status status = CS_OK;
  plan->named = true;
  for (const char *at = list; status == CS_OK && at;) {
    const size_t bytes = strcspn(at, ",");
    char spec[SPEC_BYTES];
    if (bytes == 0 || bytes >= sizeof spec)
      return cs_error_set(error, CS_INVALID_ARGUMENT,
                          "device list \"%.80s\": an empty or too long "
                          "name",
                          list);
    memcpy(spec, at, bytes);
    spec[bytes] = '\0';
    status = add_device(plan, runtime, spec, error);
    at = at[bytes] == ',' ? at + bytes + 1 : NULL;
  }
  return status;
}

/* Every device present but simulated ones, which are there to be asked for by name. One that
 * cannot be opened is told in the log and left out. */
static cs_status add_present(consort_plan *plan, cs_runtime *runtime, cs_error *error) {
  for (uint32_t i = 0; i < cs_runtime_n_plugins(runtime); i++) {
    cs_plugin_status plugin;
    const cs_status status = cs_runtime_plugin(runtime, i, &plugin, error);
    if (status != CS_OK) return status;
    for (uint32_t j = 0; j < plugin.n_devices && plan->n_devices < MAX_DEVICES; j++) {
      cs_device_properties properties = {.struct_size = sizeof properties};
      cs_error why = CS_ERROR_INIT;
      char spec[SPEC_BYTES];
      snprintf(spec, sizeof spec, "%.50s:%u", plugin.name, j);
      if (cs_runtime_device_info(runtime, i, j, &properties, &why) == CS_OK &&
          properties.flags & CS_DEVICE_SOFTWARE)
        continue;
      if (add_device(plan, runtime, spec, &why) != CS_OK)
        cs_log_write(cs_runtime_log(runtime), CS_LOG_WARN, "%s is left out: %s", spec, why.message);
    }
  }
  return CS_OK;
}

static cs_status add_devices(consort_plan *plan, cs_runtime *runtime,
                             const consort_plan_options *options, cs_error *error) {
  cs_status status = CS_OK;
  if (options->devices)
    status = add_listed(plan, runtime, options->devices, error);
  else if (!options->prefill || !options->decode)
    status = add_present(plan, runtime, error);
  if (status == CS_OK && options->prefill)
    status = add_device(plan, runtime, options->prefill, error);
  if (status == CS_OK && options->decode)
    status = add_device(plan, runtime, options->decode, error);
  if (status == CS_OK && plan->n_devices == 0)
    status = cs_error_set(error, CS_NOT_FOUND, "no device: consort devices tells why");
  return status;
}

/* A device that cannot be measured is left out like one that cannot be opened, unless it was asked
 * for. */
static cs_status measure_devices(consort_plan *plan, cs_runtime *runtime,
                                 const consort_plan_options *options, cs_error *error) {
  for (size_t i = 0; i < plan->n_devices; i++) {
    planned_device *device = &plan->devices[i];
    cs_error why = CS_ERROR_INIT;
    const cs_status status = cs_profile_get(device->device, plan->dtype, options->measure_again,
                                            &device->stage.profile, &why);
    if (status == CS_OK) continue;
    const bool fixed = (options->prefill && strcmp(options->prefill, device->spec) == 0) ||
                       (options->decode && strcmp(options->decode, device->spec) == 0);
    if (plan->named || fixed) return cs_error_set(error, status, "%s", why.message);
    cs_log_write(cs_runtime_log(runtime), CS_LOG_WARN, "%s is left out: %s", device->spec,
                 why.message);
    planned_device unusable = *device;
    *device = plan->devices[plan->n_devices - 1];
    plan->devices[plan->n_devices - 1] = unusable;
    drop_last_device(plan);
    i--;
  }
  if (plan->n_devices > 0) return CS_OK;
  return cs_error_set(error, CS_NOT_FOUND, "no device that can be measured");
}

/* ---- candidates ---- */

static bool is_allowed(const planned_device *device, const char *fixed) {
  return !fixed || strcmp(device->spec, fixed) == 0;
}

static cs_status list_candidates(consort_plan *plan, const consort_plan_options *options,
                                 cs_error *error) {
  const size_t most = plan->n_devices * plan->n_devices;
  plan->pairs = calloc(most, sizeof *plan->pairs);
  plan->predictions = calloc(most, sizeof *plan->predictions);
  if (!plan->pairs || !plan->predictions)
    return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint32_t i = 0; i < plan->n_devices; i++)
    for (uint32_t j = 0; j < plan->n_devices; j++) {
      if (!is_allowed(&plan->devices[i], options->prefill)) continue;
      if (!is_allowed(&plan->devices[j], options->decode)) continue;
      plan->pairs[plan->n_candidates].prefill = i;
      plan->pairs[plan->n_candidates].decode = j;
      plan->n_candidates++;
    }
  return CS_OK;
}

static const planned_device *prefill_of(const consort_plan *plan, size_t candidate) {
  return &plan->devices[plan->pairs[candidate].prefill];
}

static const planned_device *decode_of(const consort_plan *plan, size_t candidate) {
  return &plan->devices[plan->pairs[candidate].decode];
}

/* The best candidate of the other kind (two devices instead of one, or the other way round). */
static size_t best_alternative(const consort_plan *plan) {
  const bool split = plan->pairs[plan->best].prefill != plan->pairs[plan->best].decode;
  size_t best = plan->n_candidates;
  for (size_t i = 0; i < plan->n_candidates; i++) {
    if ((plan->pairs[i].prefill != plan->pairs[i].decode) == split) continue;
    if (!isfinite(plan->predictions[i].total_ms) || !plan->predictions[i].fits) continue;
    if (best == plan->n_candidates ||
        plan->predictions[i].total_ms < plan->predictions[best].total_ms)
      best = i;
  }
  return best;
}

static size_t describe_pair(const consort_plan *plan, size_t candidate, char *out, size_t bytes) {
  const char *prefill = prefill_of(plan, candidate)->spec;
  const char *decode = decode_of(plan, candidate)->spec;
  const int used = strcmp(prefill, decode) == 0 ? snprintf(out, bytes, "%s alone", prefill)
                                                : snprintf(out, bytes, "%s → %s", prefill, decode);
  return (size_t)used < bytes ? (size_t)used : bytes - 1;
}

static void state_reason(consort_plan *plan) {
  const cs_prediction *best = &plan->predictions[plan->best];
  const char *prefill = prefill_of(plan, plan->best)->spec;
  const char *decode = decode_of(plan, plan->best)->spec;
  const size_t alternative = best_alternative(plan);
  char other[2 * SPEC_BYTES + 8];
  size_t used;
  if (strcmp(prefill, decode) == 0)
    used = (size_t)snprintf(plan->reason, REASON_BYTES, "prefill and decode on %s", prefill);
  else
    used = (size_t)snprintf(plan->reason, REASON_BYTES, "prefill on %s, decode on %s", prefill,
                            decode);
  if (isfinite(best->total_ms) && best->total_ms > 0 && used < REASON_BYTES)
    used += (size_t)snprintf(plan->reason + used, REASON_BYTES - used,
                             ": %.4g ms predicted for %u+%u tokens", best->total_ms,
                             plan->workload.n_prompt, plan->workload.n_output);
  if (best->note[0] && used < REASON_BYTES)
    used += (size_t)snprintf(plan->reason + used, REASON_BYTES - used, " (%s)", best->note);
  if (plan->n_candidates == 1 || used >= REASON_BYTES) return;
  if (alternative == plan->n_candidates) return;
  describe_pair(plan, alternative, other, sizeof other);
  snprintf(plan->reason + used, REASON_BYTES - used, "; %s would take %.4g ms", other,
           plan->predictions[alternative].total_ms);
}

static void choose(consort_plan *plan) {
  for (size_t i = 0; i < plan->n_candidates; i++) {
    const planned_device *prefill = prefill_of(plan, i), *decode = decode_of(plan, i);
    if (prefill->device == decode->device) decode = prefill; /* two names of one device */
    cs_predict(&plan->costs, &plan->workload, &prefill->stage, &decode->stage,
               &plan->predictions[i]);
  }
  plan->best = cs_predict_best(plan->predictions, plan->n_candidates);
  state_reason(plan);
}

/* ---- plan ---- */

static cs_status read_workload(consort_plan *plan, const cs_model *model,
                               const consort_plan_options *options, cs_error *error) {
  cs_workload *workload = &plan->workload;
  workload->n_prompt = options->n_prompt_tokens ? options->n_prompt_tokens : USUAL_PROMPT;
  workload->n_output = options->n_output_tokens ? options->n_output_tokens : USUAL_OUTPUT;
  const uint64_t both = (uint64_t)workload->n_prompt + workload->n_output;
  if (both > UINT32_MAX) return cs_error_set(error, CS_OUT_OF_RANGE, "too many tokens to plan for");
  workload->n_context = options->n_context ? options->n_context : (uint32_t)both;
  workload->slo_ttft_ms = options->slo_ttft_ms;
  workload->slo_tpot_ms = options->slo_tpot_ms;
  workload->rate = options->rate;
  uint32_t kv_dtype;
  const cs_status status =
      cs_worker_kv_dtype(options->kv_dtype ? options->kv_dtype : "f16", &kv_dtype, error);
  if (status) return status;
  plan->dtype = cs_dtype_from_name(cs_model_format(model));
  return read_costs(model, kv_dtype, &plan->costs, error);
}

cs_status consort_plan_create(consort_runtime *runtime, const consort_model *model,
                              const consort_plan_options *options, consort_plan **out,
                              cs_error *error) {
  *out = NULL;
  consort_plan_options wanted;
  cs_status status = cs_struct_read(&wanted, sizeof wanted, options, "plan options", error);
  if (status != CS_OK) return status;
  if (!model->model)
    return cs_error_set(error, CS_UNSUPPORTED, "a vocabulary alone has nothing to place");
  consort_plan *plan = calloc(1, sizeof *plan);
  if (!plan) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  status = read_workload(plan, model->model, &wanted, error);
  if (status == CS_OK) status = add_devices(plan, runtime->core, &wanted, error);
  if (status == CS_OK) status = measure_devices(plan, runtime->core, &wanted, error);
  if (status == CS_OK) status = list_candidates(plan, &wanted, error);
  if (status != CS_OK) {
    consort_plan_destroy(plan);
    return status;
  }
  choose(plan);
  *out = plan;
  return CS_OK;
}

void consort_plan_destroy(consort_plan *plan) {
  if (!plan) return;
  while (plan->n_devices > 0)
    drop_last_device(plan);
  free(plan->pairs);
  free(plan->predictions);
  free(plan);
}

const char *consort_plan_prefill(const consort_plan *plan) {
  return prefill_of(plan, plan->best)->spec;
}

const char *consort_plan_decode(const consort_plan *plan) {
  return decode_of(plan, plan->best)->spec;
}

const char *consort_plan_reason(const consort_plan *plan) {
  return plan->reason;
}

size_t consort_plan_n_candidates(const consort_plan *plan) {
  return plan->n_candidates;
}

cs_status consort_plan_candidate(const consort_plan *plan, size_t index, consort_candidate *out,
                                 cs_error *error) {
  if (index >= plan->n_candidates)
    return cs_error_set(error, CS_OUT_OF_RANGE, "candidate %zu: the plan has %zu", index,
                        plan->n_candidates);
  const cs_prediction *prediction = &plan->predictions[index];
  const consort_candidate candidate = {
      .struct_size = sizeof candidate,
      .chosen = index == plan->best,
      .prefill = prefill_of(plan, index)->spec,
      .decode = decode_of(plan, index)->spec,
      .ttft_ms = prediction->ttft_ms,
      .tpot_ms = prediction->tpot_ms,
      .total_ms = prediction->total_ms,
      .transfer_ms = prediction->transfer_ms,
      .memory_bytes = prediction->memory_bytes,
      .note = prediction->note,
      .goodput = prediction->goodput,
  };
  return cs_struct_write(out, &candidate, sizeof candidate, "candidate", error);
}

cs_status cs_planner_choose(consort_runtime *runtime, const consort_model *model, uint32_t n_prompt,
                            uint32_t n_output, const char *fixed_prefill, const char *fixed_decode,
                            char prefill[64], char decode[64], char reason[256], cs_error *error) {
  reason[0] = '\0';
  if (fixed_prefill && fixed_decode) {
    if (strlen(fixed_prefill) >= SPEC_BYTES || strlen(fixed_decode) >= SPEC_BYTES)
      return cs_error_set(error, CS_INVALID_ARGUMENT, "device \"%.80s\": the name is too long",
                          strlen(fixed_prefill) >= SPEC_BYTES ? fixed_prefill : fixed_decode);
    memcpy(prefill, fixed_prefill, strlen(fixed_prefill) + 1);
    memcpy(decode, fixed_decode, strlen(fixed_decode) + 1);
    return CS_OK;
  }
  const consort_plan_options options = {.struct_size = sizeof options,
                                        .n_prompt_tokens = n_prompt,
                                        .n_output_tokens = n_output,
                                        .prefill = fixed_prefill,
                                        .decode = fixed_decode};
  consort_plan *plan;
  const cs_status status = consort_plan_create(runtime, model, &options, &plan, error);
  if (status != CS_OK) return status;
  memcpy(prefill, consort_plan_prefill(plan), SPEC_BYTES);
  memcpy(decode, consort_plan_decode(plan), SPEC_BYTES);
  memcpy(reason, plan->reason, REASON_BYTES);
  consort_plan_destroy(plan);
  return CS_OK;
}
