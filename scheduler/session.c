/* Where the parts come together: devices by name, a worker for each, a router before them. When
 * prefill and decode are the same device there is one worker, one set of weights and no transfer.
 *
 * A fallback device is opened only when the asked-for device says no to something: most do not
 * need one, and opening it would start its threads. */
#include "scheduler/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "scheduler/facade.h"
#include "scheduler/planner.h"
#include "scheduler/structs.h"
#include "scheduler/wire.h"

#define DEFAULT_CONTEXT 4096
#define DEFAULT_BATCH   512
#define STEP_TIMEOUT_US UINT64_C(300000000)
#define INBOX_BYTES     (size_t)(256u << 20)

/* ---- devices ---- */

/* `n_threads` goes to devices that live on the host's cores: every host-resident plugin takes it
 * as the option "threads". */
static cs_status open_device(consort_runtime *runtime, const char *name, uint32_t n_threads,
                             cs_device **out, cs_error *error) {
  const cs_status status = cs_device_open(runtime->core, name, out, error);
  if (status || n_threads == 0 || strchr(name, '?')) return status;
  if (!(cs_device_get_properties(*out)->flags & CS_DEVICE_HOST_RESIDENT)) return CS_OK;
  char with_threads[128];
  snprintf(with_threads, sizeof with_threads, "%s?threads=%u", name, n_threads);
  cs_device_release(*out);
  *out = NULL;
  return cs_device_open(runtime->core, with_threads, out, error);
}

/* The first host-resident device that is not `primary`; simulations come last. */
static cs_status find_fallback(consort_runtime *runtime, const cs_device *primary,
                               uint32_t n_threads, cs_device **out) {
  for (uint32_t software = 0; software < 2; software++)
    for (uint32_t p = 0; p < cs_runtime_n_plugins(runtime->core); p++) {
      cs_plugin_status plugin;
      if (cs_runtime_plugin(runtime->core, p, &plugin, NULL) || plugin.failure) continue;
      for (uint32_t d = 0; d < plugin.n_devices; d++) {
        cs_device_properties properties = {.struct_size = sizeof properties};
        if (cs_runtime_device_info(runtime->core, p, d, &properties, NULL)) continue;
        if (!(properties.flags & CS_DEVICE_HOST_RESIDENT)) continue;
        if (!!(properties.flags & CS_DEVICE_SOFTWARE) != software) continue;
        char name[80];
        snprintf(name, sizeof name, "%s:%u", plugin.name, d);
        if (strcmp(name, cs_device_name(primary)) == 0) continue;
        if (!open_device(runtime, name, n_threads, out, NULL)) return CS_OK;
      }
    }
  return CS_NOT_FOUND;
}

/* ---- workers ---- */

static cs_fallback_policy policy_of(uint32_t fallback) {
  return fallback == CONSORT_FALLBACK_STRICT  ? CS_FALLBACK_STRICT
         : fallback == CONSORT_FALLBACK_ALLOW ? CS_FALLBACK_ALLOW
                                              : CS_FALLBACK_WARN;
}

/* A name, or what the device does best where none was given. */
static cs_status choose_kv_dtype(const char *name, const cs_device *device, uint32_t *dtype,
                                 cs_error *error) {
  const uint64_t can = cs_device_get_properties(device)->kv_dtypes;
  *dtype = can & CS_DTYPE_BIT(CS_DTYPE_F16) || !(can & CS_DTYPE_BIT(CS_DTYPE_F32)) ? CS_DTYPE_F16
                                                                                   : CS_DTYPE_F32;
  if (!name) return CS_OK;
  *dtype = strcmp(name, "int8") == 0 ? CS_DTYPE_I8 : cs_dtype_from_name(name);
  if (cs_wire_element_bytes(*dtype) != 0) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "KV dtype %s: there are f32, f16, bf16 and int8",
                      name);
}

/* With the device alone first, and with a fallback only where that is not enough. */
static cs_status plan_worker(consort_session *session, const consort_session_options *options,
                             cs_worker_options *worker, cs_worker **out, cs_error *error) {
  const cs_fallback_policy policy = policy_of(options->fallback);
  worker->engine.policy = CS_FALLBACK_STRICT;
  cs_error refusal = CS_ERROR_INIT;
  cs_status status = cs_worker_create(worker, out, &refusal);
  if (status == CS_UNSUPPORTED && policy != CS_FALLBACK_STRICT &&
      !find_fallback(session->runtime, worker->engine.primary, options->n_threads,
                     &worker->engine.fallback)) {
    worker->engine.policy = policy;
    refusal = (cs_error)CS_ERROR_INIT;
    status = cs_worker_create(worker, out, &refusal);
    cs_device_release(worker->engine.fallback);
  }
  if (status && error && error->struct_size >= sizeof *error) *error = refusal;
  return status;
}

static cs_status create_worker(consort_session *session, const consort_session_options *options,
                               const cs_session_tuning *tuning, cs_device *device, uint32_t number,
                               cs_worker **out, cs_error *error) {
  cs_worker_options worker = {
      .engine = {.model = session->model->model,
                 .primary = device,
                 .n_context = session->n_context,
                 .n_sequences = options->n_sequences ? options->n_sequences : 1,
                 .n_batch = options->n_batch ? options->n_batch : DEFAULT_BATCH,
                 .step_timeout_us =
                     tuning->step_timeout_us ? tuning->step_timeout_us : STEP_TIMEOUT_US},
      .number = number,
      .deterministic = options->deterministic != 0,
      .log = cs_runtime_log(session->runtime->core)};
  const cs_status status =
      choose_kv_dtype(options->kv_dtype, device, &worker.engine.kv_dtype, error);
  return status ? status : plan_worker(session, options, &worker, out, error);
}

static cs_status create_workers(consort_session *session, const consort_session_options *options,
                                const cs_session_tuning *tuning, cs_error *error) {
  cs_device *prefill = NULL, *decode = NULL;
  cs_status status =
      open_device(session->runtime, session->prefill_name, options->n_threads, &prefill, error);
  if (!status)
    status =
        open_device(session->runtime, session->decode_name, options->n_threads, &decode, error);
  if (!status)
    status = create_worker(session, options, tuning, decode, CS_SESSION_DECODE_WORKER,
                           &session->decode, error);
  if (!status && prefill != decode)
    status = create_worker(session, options, tuning, prefill, CS_SESSION_PREFILL_WORKER,
                           &session->prefill, error);
  if (!status) {
    snprintf(session->prefill_name, sizeof session->prefill_name, "%s", cs_device_name(prefill));
    snprintf(session->decode_name, sizeof session->decode_name, "%s", cs_device_name(decode));
  }
  if (prefill) cs_device_release(prefill);
  if (decode) cs_device_release(decode);
  return status;
}

/* ---- memory ---- */

static double mebibytes(uint64_t bytes) {
  return (double)bytes / (1024.0 * 1024.0);
}

/* What the workers will take of the memory that `device` belongs to. */
static uint64_t needed_with(const consort_session *session, const cs_device *device) {
  const cs_worker *const workers[] = {session->prefill, session->decode};
  const char *const domain = cs_device_get_properties(device)->memory_domain;
  uint64_t needed = 0;
  for (size_t i = 0; i < 2; i++)
    for (uint32_t d = 0; workers[i] && d < 2; d++) {
      const cs_engine *const engine = cs_worker_engine(workers[i]);
      const cs_device *const other = cs_engine_device(engine, d);
      if (!other) continue;
      const char *const its_domain = cs_device_get_properties(other)->memory_domain;
      if (other != device && (!domain[0] || strcmp(domain, its_domain) != 0)) continue;
      if (__builtin_add_overflow(needed, cs_engine_needed_bytes(engine, d), &needed))
        return UINT64_MAX;
    }
  return needed;
}

static cs_status check_memory(const consort_session *session, cs_error *error) {
  const cs_worker *const workers[] = {session->prefill, session->decode};
  for (size_t i = 0; i < 2; i++)
    for (uint32_t d = 0; workers[i] && d < 2; d++) {
      const cs_device *const device = cs_engine_device(cs_worker_engine(workers[i]), d);
      if (!device) continue;
      const cs_device_properties *const properties = cs_device_get_properties(device);
      const uint64_t available =
          properties->memory_free_bytes ? properties->memory_free_bytes : properties->memory_bytes;
      const uint64_t needed = needed_with(session, device);
      if (available == 0 || needed <= available) continue;
      return cs_error_set(error, CS_OUT_OF_MEMORY,
                          "%s has not enough memory: weights and a context of %u tokens need "
                          "%.0f MiB, %.0f MiB are available",
                          cs_device_name(device), session->n_context, mebibytes(needed),
                          mebibytes(available));
    }
  return CS_OK;
}

/* ---- fallbacks ---- */

static cs_status collect_fallbacks(consort_session *session, cs_error *error) {
  const cs_worker *const workers[] = {session->prefill, session->decode};
  size_t n = 0;
  for (size_t i = 0; i < 2; i++)
    if (workers[i])
      n += cs_placement_n_fallbacks(cs_engine_placement(cs_worker_engine(workers[i])));
  session->fallbacks = calloc(n + 1, sizeof *session->fallbacks);
  if (!session->fallbacks) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a report");
  for (size_t i = 0; i < 2; i++) {
    if (!workers[i]) continue;
    const cs_engine *const engine = cs_worker_engine(workers[i]);
    const cs_placement *const placement = cs_engine_placement(engine);
    const cs_fallback_entry *const entries = cs_placement_fallbacks(placement);
    for (size_t k = 0; k < cs_placement_n_fallbacks(placement); k++)
      session->fallbacks[session->n_fallbacks++] =
          (consort_fallback){.struct_size = sizeof(consort_fallback),
                             .count = entries[k].count,
                             .op = cs_op_name(entries[k].op_id),
                             .asked_device = cs_device_name(cs_engine_device(engine, 0)),
                             .device = entries[k].device,
                             .reason = entries[k].reason,
                             .bytes_per_token = entries[k].bytes_a_row};
  }
  return CS_OK;
}

size_t consort_session_n_fallbacks(const consort_session *session) {
  return session ? session->n_fallbacks : 0;
}

cs_status consort_session_fallback(const consort_session *session, size_t index,
                                   consort_fallback *out, cs_error *error) {
  if (!session || index >= session->n_fallbacks)
    return cs_error_set(error, CS_OUT_OF_RANGE, "there is no fallback %zu", index);
  return cs_struct_write(out, &session->fallbacks[index], sizeof *out, "fallback", error);
}

/* ---- life ---- */

static cs_status choose_devices(consort_session *session, const consort_session_options *options,
                                cs_error *error) {
  if (!options->prefill || !options->decode)
    return cs_planner_choose(session->runtime, session->model, options->n_prompt_tokens,
                             options->n_output_tokens, options->prefill, options->decode,
                             session->prefill_name, session->decode_name, session->reason, error);
  if (strlen(options->prefill) >= sizeof session->prefill_name ||
      strlen(options->decode) >= sizeof session->decode_name)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a device name is too long");
  strcpy(session->prefill_name, options->prefill);
  strcpy(session->decode_name, options->decode);
  return CS_OK;
}

static cs_status collect_ends(consort_session *session, cs_error *error) {
  const cs_tokenizer *const tokenizer = session->model->tokenizer;
  const uint32_t n_vocab = tokenizer ? cs_tokenizer_n_vocab(tokenizer) : 0;
  uint32_t n = 0;
  for (uint32_t id = 0; id < n_vocab; id++)
    n += cs_tokenizer_is_end(tokenizer, (int32_t)id);
  session->ends = malloc((n + 1) * sizeof *session->ends);
  if (!session->ends) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a session");
  for (uint32_t id = 0; id < n_vocab; id++)
    if (cs_tokenizer_is_end(tokenizer, (int32_t)id)) session->ends[session->n_ends++] = (int32_t)id;
  return CS_OK;
}

static cs_status start_worker(consort_session *session, cs_worker *worker,
                              const consort_session_options *options, cs_error *error) {
  return cs_worker_start(worker, cs_mailbox_link(session->inbox), options->progress,
                         options->progress_user, error);
}

static cs_status start(consort_session *session, const consort_session_options *options,
                       const cs_session_tuning *tuning, cs_error *error) {
  cs_status status = cs_mailbox_create(INBOX_BYTES, &session->inbox, error);
  if (!status) status = start_worker(session, session->decode, options, error);
  if (!status && session->prefill) {
    status = start_worker(session, session->prefill, options, error);
    if (!status)
      status = cs_worker_connect(session->prefill, CS_SESSION_DECODE_PEER,
                                 cs_worker_link(session->decode), error);
    if (!status && !tuning->staged)
      cs_worker_connect_dock(session->prefill, CS_SESSION_DECODE_PEER,
                             cs_worker_dock(session->decode));
  }
  if (status) return status;
  const cs_router_options router = {.inbox = session->inbox,
                                    .prefill =
                                        session->prefill ? cs_worker_link(session->prefill) : NULL,
                                    .decode = cs_worker_link(session->decode),
                                    .prefill_number = CS_SESSION_PREFILL_WORKER,
                                    .decode_number = CS_SESSION_DECODE_WORKER,
                                    .decode_peer = CS_SESSION_DECODE_PEER,
                                    .silence_us = tuning->silence_us,
                                    .transfer_us = tuning->transfer_us};
  return cs_router_create(&router, &session->router, error);
}

static cs_status check_arguments(const consort_runtime *runtime, const consort_model *model,
                                 const consort_session_options *options, cs_error *error) {
  if (!runtime || !model || !model->model)
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        model ? "the file holds a vocabulary only" : "no model");
  if (options->fallback > CONSORT_FALLBACK_STRICT)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "fallback policy %u is unknown",
                        options->fallback);
  return CS_OK;
}

static uint32_t choose_context(const consort_session *session, uint32_t asked) {
  const uint32_t made_for = cs_model_get_config(session->model->model)->n_context;
  if (asked == 0) return made_for > 0 && made_for < DEFAULT_CONTEXT ? made_for : DEFAULT_CONTEXT;
  if (asked > made_for)
    cs_log_write(cs_runtime_log(session->runtime->core), CS_LOG_INFO,
                 "a context of %u tokens: the model was made for %u", asked, made_for);
  return asked;
}

cs_status cs_session_create(consort_runtime *runtime, consort_model *model,
                            const consort_session_options *options, const cs_session_tuning *tuning,
                            consort_session **out, cs_error *error) {
  if (!out) return cs_error_set(error, CS_INVALID_ARGUMENT, "no place for the session");
  *out = NULL;
  consort_session_options known;
  cs_status status = cs_struct_read(&known, sizeof known, options, "session options", error);
  if (!status) status = check_arguments(runtime, model, &known, error);
  if (status) return status;
  consort_session *const session = calloc(1, sizeof *session);
  if (!session) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a session");
  const cs_session_tuning usual = {0};
  if (!tuning) tuning = &usual;
  session->runtime = runtime;
  session->model = model;
  session->n_context = choose_context(session, known.n_context);
  status = choose_devices(session, &known, error);
  if (!status) status = collect_ends(session, error);
  if (!status) status = create_workers(session, &known, tuning, error);
  if (!status) status = check_memory(session, error);
  if (!status) status = collect_fallbacks(session, error);
  if (!status) status = start(session, &known, tuning, error);
  if (status) {
    consort_session_destroy(session);
    return status;
  }
  *out = session;
  return CS_OK;
}

cs_status consort_session_create(consort_runtime *runtime, consort_model *model,
                                 const consort_session_options *options, consort_session **out,
                                 cs_error *error) {
  return cs_session_create(runtime, model, options, NULL, out, error);
}

void consort_session_destroy(consort_session *session) {
  if (!session) return;
  if (session->inbox) cs_mailbox_close(session->inbox); /* no worker waits for room in it */
  cs_worker_destroy(session->prefill);
  cs_worker_destroy(session->decode);
  cs_router_destroy(session->router);
  cs_mailbox_destroy(session->inbox);
  free(session->ends);
  free(session->fallbacks);
  free(session);
}

const char *consort_session_prefill(const consort_session *session) {
  return session->prefill_name;
}

const char *consort_session_decode(const consort_session *session) {
  return session->decode_name;
}

const char *consort_session_reason(const consort_session *session) {
  return session->reason;
}
