/* Where the parts come together: devices by name, a worker for each, a router before them. When
 * prefill and decode are the same device there is one worker, one set of weights and no transfer.
 * A worker is here or in another process: that decides what its links are, and nothing else. */
#include "scheduler/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/facade.h"
#include "scheduler/planner.h"
#include "scheduler/structs.h"
#include "scheduler/worker_build.h"

#define DEFAULT_CONTEXT 4096
#define INBOX_BYTES     (size_t)(256u << 20)
#define REMOTE_GRACE_US UINT64_C(500000) /* a stage that failed is told within 3 s */

/* ---- workers ---- */

static cs_worker_spec spec_for(const consort_session *session,
                               const consort_session_options *options,
                               const cs_session_tuning *tuning, uint32_t number) {
  return (cs_worker_spec){.model = session->model->model,
                          .number = number,
                          .n_context = session->n_context,
                          .n_sequences = options->n_sequences,
                          .n_batch = options->n_batch,
                          .fallback = options->fallback,
                          .n_threads = options->n_threads,
                          .deterministic = options->deterministic != 0,
                          .profile = options->profile != 0,
                          .pack_folder = options->pack_cache,
                          .step_timeout_us = tuning->step_timeout_us};
}

static cs_status create_local(consort_session *session, cs_worker_spec *spec, cs_device *device,
                              const char *kv_dtype, cs_worker **out, cs_error *error) {
  spec->device = device;
  const cs_status status = cs_worker_kv_dtype(kv_dtype, &spec->kv_dtype, error);
  return status ? status : cs_worker_build(session->runtime->core, spec, out, error);
}

static cs_status create_remote(consort_session *session, const consort_session_options *options,
                               const cs_worker_spec *spec, const char *kv_name, const char *name,
                               cs_remote **out, cs_error *error) {
  uint32_t kv_dtype;
  const cs_status status = cs_worker_kv_dtype(kv_name, &kv_dtype, error);
  if (status) return status;
  const cs_remote_options remote = {
      .name = name,
      .net = session->net,
      .secret = &session->secret,
      .answers = session->inbox,
      .attach = {.fingerprint = cs_model_fingerprint(session->model->model),
                 .step_timeout_us = spec->step_timeout_us,
                 .number = spec->number,
                 .n_context = spec->n_context,
                 .n_sequences = spec->n_sequences,
                 .n_batch = spec->n_batch,
                 .kv_dtype = kv_dtype,
                 .fallback = spec->fallback,
                 .n_threads = spec->n_threads,
                 .deterministic = spec->deterministic,
                 .model = cs_blob_of_text(session->model->source)},
      .progress = options->progress,
      .progress_user = options->progress_user};
  return cs_remote_create(&remote, out, error);
}

static bool is_here(const char *name) {
  return !cs_remote_is_name(name);
}

static cs_status create_workers(consort_session *session, const consort_session_options *options,
                                const cs_session_tuning *tuning, cs_error *error) {
  cs_runtime *const runtime = session->runtime->core;
  char *const prefill_name = session->prefill_name, *const decode_name = session->decode_name;
  cs_worker_spec prefill_spec = spec_for(session, options, tuning, CS_SESSION_PREFILL_WORKER);
  cs_worker_spec decode_spec = spec_for(session, options, tuning, CS_SESSION_DECODE_WORKER);
  const char *const decode_kv = options->kv_dtype;
  const char *const prefill_kv = options->prefill_kv_dtype ? options->prefill_kv_dtype : decode_kv;
  cs_device *prefill = NULL, *decode = NULL;
  cs_status status = CS_OK;
  if (is_here(prefill_name))
    status = cs_worker_open_device(runtime, prefill_name, options->n_threads, &prefill, error);
  if (!status && is_here(decode_name))
    status = cs_worker_open_device(runtime, decode_name, options->n_threads, &decode, error);
  session->two_stages = prefill != decode || (!prefill && strcmp(prefill_name, decode_name) != 0);
  if (!status && decode)
    status = create_local(session, &decode_spec, decode, decode_kv, &session->decode, error);
  else if (!status)
    status = create_remote(session, options, &decode_spec, decode_kv, decode_name,
                           &session->remote_decode, error);
  if (!status && session->two_stages && prefill)
    status = create_local(session, &prefill_spec, prefill, prefill_kv, &session->prefill, error);
  else if (!status && session->two_stages)
    status = create_remote(session, options, &prefill_spec, prefill_kv, prefill_name,
                           &session->remote_prefill, error);
  if (!status && prefill)
    snprintf(prefill_name, sizeof session->prefill_name, "%s", cs_device_name(prefill));
  if (!status && decode)
    snprintf(decode_name, sizeof session->decode_name, "%s", cs_device_name(decode));
  if (prefill) cs_device_release(prefill);
  if (decode) cs_device_release(decode);
  return status;
}

/* ---- other processes ---- */

/* Only where a name asks for it: it loads libraries and starts a thread. */
static cs_status open_net(consort_session *session, const consort_session_options *options,
                          const cs_session_tuning *tuning, cs_error *error) {
  const char *const names[] = {session->prefill_name, session->decode_name};
  cs_net_options net = {.loopback = true,
                        .silence_us = tuning->net_silence_us,
                        .log = cs_runtime_log(session->runtime->core)};
  bool needed = false;
  for (int i = 0; i < 2; i++) {
    char address[CS_REMOTE_NAME_BYTES], device[CS_REMOTE_NAME_BYTES];
    if (is_here(names[i])) continue;
    const cs_status status = cs_remote_split(names[i], address, device, error);
    if (status) return status;
    needed = true;
    net.loopback = net.loopback && cs_net_is_loopback(address);
  }
  if (!needed) return CS_OK;
  cs_status status = cs_fabric_find(&net.table, error);
  if (!status) status = cs_secret_read(options->secret_file, &session->secret, error);
  return status ? status : cs_net_create(&net, &session->net, error);
}

static cs_status meet(consort_session *session, cs_error *error) {
  if (!session->two_stages) return CS_OK;
  if (session->remote_prefill)
    return cs_remote_meet(session->remote_prefill, session->remote_decode,
                          session->decode ? cs_worker_inbox(session->decode) : NULL,
                          CS_SESSION_DECODE_PEER, error);
  return cs_worker_connect(session->prefill, CS_SESSION_DECODE_PEER,
                           session->decode ? cs_worker_link(session->decode)
                                           : cs_remote_kv(session->remote_decode),
                           error);
}

cs_status cs_session_revive(consort_session *session, cs_error *error) {
  cs_remote *const remotes[] = {session->remote_prefill, session->remote_decode};
  bool begun[2] = {false, false};
  cs_status status = CS_OK;
  for (int i = 0; i < 2 && !status; i++) {
    begun[i] = remotes[i] && cs_remote_status(remotes[i], NULL);
    if (begun[i]) status = cs_remote_begin(remotes[i], error);
  }
  for (int i = 0; i < 2 && !status; i++)
    if (begun[i]) status = cs_remote_finish(remotes[i], error);
  return !status && (begun[0] || begun[1]) ? meet(session, error) : status;
}

/* ---- fallbacks ---- */

static void collect_local(consort_session *session, const cs_worker *worker) {
  const cs_engine *const engine = cs_worker_engine(worker);
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

static void collect_remote(consort_session *session, const cs_remote *remote) {
  const cs_remote_fallback *const entries = cs_remote_fallbacks(remote);
  for (size_t k = 0; k < cs_remote_n_fallbacks(remote); k++)
    session->fallbacks[session->n_fallbacks++] =
        (consort_fallback){.struct_size = sizeof(consort_fallback),
                           .count = entries[k].count,
                           .op = cs_op_name(entries[k].op),
                           .asked_device = cs_remote_name(remote),
                           .device = entries[k].device,
                           .reason = entries[k].reason,
                           .bytes_per_token = entries[k].bytes_per_token};
}

/* After every attachment: texts of remote ones are theirs. */
static cs_status collect_fallbacks(consort_session *session, cs_error *error) {
  const cs_worker *const workers[] = {session->prefill, session->decode};
  const cs_remote *const remotes[] = {session->remote_prefill, session->remote_decode};
  size_t n = 0;
  for (size_t i = 0; i < 2; i++) {
    if (workers[i])
      n += cs_placement_n_fallbacks(cs_engine_placement(cs_worker_engine(workers[i])));
    if (remotes[i]) n += cs_remote_n_fallbacks(remotes[i]);
  }
  free(session->fallbacks);
  session->n_fallbacks = 0;
  session->fallbacks = calloc(n + 1, sizeof *session->fallbacks);
  if (!session->fallbacks) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a report");
  for (size_t i = 0; i < 2; i++) {
    if (workers[i]) collect_local(session, workers[i]);
    if (remotes[i]) collect_remote(session, remotes[i]);
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
  const bool remote = cs_remote_is_name(options->prefill) || cs_remote_is_name(options->decode);
  if (remote && (!options->prefill || !options->decode))
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "a device of another process goes with both --prefill and --decode");
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

/* Workers elsewhere load while those here do. */
static cs_status start_workers(consort_session *session, const consort_session_options *options,
                               cs_error *error) {
  cs_remote *const remotes[] = {session->remote_decode, session->remote_prefill};
  cs_worker *const workers[] = {session->decode, session->prefill};
  cs_status status = CS_OK;
  for (int i = 0; i < 2 && !status; i++)
    if (remotes[i]) status = cs_remote_begin(remotes[i], error);
  for (int i = 0; i < 2 && !status; i++)
    if (workers[i]) status = start_worker(session, workers[i], options, error);
  for (int i = 0; i < 2 && !status; i++)
    if (remotes[i]) status = cs_remote_finish(remotes[i], error);
  return status ? status : meet(session, error);
}

static cs_link *link_of(cs_worker *worker, cs_remote *remote) {
  return worker ? cs_worker_link(worker) : remote ? cs_remote_requests(remote) : NULL;
}

static cs_status start(consort_session *session, const consort_session_options *options,
                       const cs_session_tuning *tuning, cs_error *error) {
  const cs_status status = start_workers(session, options, error);
  const bool both_here = session->prefill && session->decode;
  if (!status && both_here && !tuning->staged)
    cs_worker_connect_dock(session->prefill, CS_SESSION_DECODE_PEER,
                           cs_worker_dock(session->decode));
  if (status) return status;
  if (session->remote_prefill)
    snprintf(session->prefill_name, sizeof session->prefill_name, "%s",
             cs_remote_name(session->remote_prefill));
  if (session->remote_decode)
    snprintf(session->decode_name, sizeof session->decode_name, "%s",
             cs_remote_name(session->remote_decode));
  if (!session->two_stages) strcpy(session->prefill_name, session->decode_name);
  const cs_router_options router = {.inbox = session->inbox,
                                    .prefill = link_of(session->prefill, session->remote_prefill),
                                    .decode = link_of(session->decode, session->remote_decode),
                                    .prefill_number = CS_SESSION_PREFILL_WORKER,
                                    .decode_number = CS_SESSION_DECODE_WORKER,
                                    .decode_peer = CS_SESSION_DECODE_PEER,
                                    .silence_us = tuning->silence_us,
                                    .transfer_us = tuning->transfer_us,
                                    .grace_us = session->net ? REMOTE_GRACE_US : 0};
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
  if (!status) status = cs_mailbox_create(INBOX_BYTES, &session->inbox, error);
  if (!status) status = open_net(session, &known, tuning, error);
  if (!status) status = create_workers(session, &known, tuning, error);
  cs_worker *const workers[] = {session->prefill, session->decode};
  if (!status) status = cs_worker_check_memory(workers, 2, error);
  if (!status) status = start(session, &known, tuning, error);
  if (!status) status = collect_fallbacks(session, error);
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
  cs_remote_destroy(session->remote_prefill);           /* nor for credit */
  cs_remote_disconnect(session->remote_decode);
  cs_worker_destroy(session->prefill);
  cs_worker_destroy(session->decode);
  cs_remote_destroy(session->remote_decode); /* the prefill worker had its link */
  cs_router_destroy(session->router);
  if (session->inbox) cs_mailbox_destroy(session->inbox);
  cs_net_destroy(session->net);
  memset(&session->secret, 0, sizeof session->secret);
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
