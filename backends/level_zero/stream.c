/* The driver's side of a stream: copies on the copy lane, eager ops on an immediate list, programs
 * as recorded lists on the queue. Host memory that the driver did not allocate goes through
 * staging: only some devices reach it, and the copy there costs less than a surprise here. */
#include <string.h>

#include "clc/plan.h"
#include "level_zero.h"

#define STAGING_BYTES   (4u << 20)
#define DRAIN_LIMIT_NS  UINT64_C(120000000000)
#define FINISH_LIMIT_NS UINT64_C(2000000000)

cs_status level_zero_stream_drain(cs_plugin_stream *stream, cs_error *error) {
  const cs_status status = level_zero_lanes_wait(&stream->lanes, DRAIN_LIMIT_NS, error);
  if (status == CS_TIMEOUT)
    return cs_sdk_error(error, CS_DEVICE_LOST, ZE_RESULT_NOT_READY,
                        "the device did not finish its work within two minutes");
  if (status == CS_OK) stream->staging_used = 0;
  return status;
}

/* Enters a lane, waiting first when few events are left. */
static cs_status enter(cs_plugin_stream *stream, level_zero_lane lane, cs_error *error) {
  if (lane == LANE_COPY && !stream->lanes.lists[LANE_COPY]) lane = LANE_COMPUTE;
  if (level_zero_lanes_full(&stream->lanes)) {
    const cs_status status = level_zero_stream_drain(stream, error);
    if (status != CS_OK) return status;
  }
  return level_zero_lanes_enter(&stream->lanes, lane, error);
}

/* ---- copies ---- */

cs_status level_zero_stream_move(cs_plugin_stream *stream, void *to, const void *from,
                                 uint64_t bytes, cs_error *error) {
  const cs_status status = enter(stream, LANE_COPY, error);
  if (status != CS_OK) return status;
  const level_zero_api *api = &stream->root->api;
  const ze_command_list_handle_t list = stream->lanes.lists[stream->lanes.last];
  LEVEL_ZERO_TRY(api, zeCommandListAppendMemoryCopy, list, to, from, bytes, NULL, 0, NULL);
  LEVEL_ZERO_TRY(api, zeCommandListAppendBarrier, list, NULL, 0, NULL);
  return CS_OK;
}

static bool reachable(const cs_plugin_stream *stream, const void *pointer) {
  ze_memory_allocation_properties_t properties = {
      .stype = ZE_STRUCTURE_TYPE_MEMORY_ALLOCATION_PROPERTIES};
  const ze_result_t result =
      stream->root->api.zeMemGetAllocProperties(stream->context, pointer, &properties, NULL);
  return result == ZE_RESULT_SUCCESS && properties.type != ZE_MEMORY_TYPE_UNKNOWN;
}

/* Room for `bytes` (at most STAGING_BYTES) of staging, waiting for earlier copies where need be. */
static cs_status take_staging(cs_plugin_stream *stream, uint64_t bytes, unsigned char **out,
                              cs_error *error) {
  cs_status status = CS_OK;
  if (!stream->staging)
    status = level_zero_host_allocate(&stream->root->api, stream->context, STAGING_BYTES,
                                      &stream->staging, error);
  if (status == CS_OK && stream->staging_used + bytes > STAGING_BYTES)
    status = level_zero_stream_drain(stream, error);
  if (status != CS_OK) return status;
  *out = stream->staging + stream->staging_used;
  stream->staging_used += (bytes + 63) / 64 * 64;
  return CS_OK;
}

static cs_status upload(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  unsigned char *to = copy->to->pointer + copy->to_offset;
  const unsigned char *from = copy->host_from;
  if (reachable(stream, from)) return level_zero_stream_move(stream, to, from, copy->bytes, error);
  cs_status status = CS_OK;
  for (uint64_t done = 0; done < copy->bytes && status == CS_OK; done += STAGING_BYTES) {
    const uint64_t left = copy->bytes - done, n = left < STAGING_BYTES ? left : STAGING_BYTES;
    unsigned char *staging;
    status = take_staging(stream, n, &staging, error);
    if (status != CS_OK) break;
    memcpy(staging, from + done, n);
    status = level_zero_stream_move(stream, to + done, staging, n, error);
  }
  return status;
}

static cs_status download(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  const unsigned char *from = copy->from->pointer + copy->from_offset;
  unsigned char *to = copy->host_to;
  if (reachable(stream, to)) return level_zero_stream_move(stream, to, from, copy->bytes, error);
  for (uint64_t done = 0; done < copy->bytes; done += STAGING_BYTES) {
    const uint64_t left = copy->bytes - done, n = left < STAGING_BYTES ? left : STAGING_BYTES;
    unsigned char *staging;
    cs_status status = take_staging(stream, n, &staging, error);
    if (status == CS_OK) status = level_zero_stream_move(stream, staging, from + done, n, error);
    if (status == CS_OK) status = level_zero_stream_drain(stream, error);
    if (status != CS_OK) return status;
    memcpy(to + done, staging, n);
  }
  return CS_OK;
}

static cs_status copy_within(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  return level_zero_stream_move(stream, copy->to->pointer + copy->to_offset,
                                copy->from->pointer + copy->from_offset, copy->bytes, error);
}

static cs_status fill(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  const cs_status status = enter(stream, LANE_COMPUTE, error);
  if (status != CS_OK) return status;
  const level_zero_api *api = &stream->root->api;
  const ze_command_list_handle_t list = stream->lanes.lists[LANE_COMPUTE];
  LEVEL_ZERO_TRY(api, zeCommandListAppendMemoryFill, list, copy->to->pointer + copy->to_offset,
                 &copy->value, 1, copy->bytes, NULL, 0, NULL);
  LEVEL_ZERO_TRY(api, zeCommandListAppendBarrier, list, NULL, 0, NULL);
  return CS_OK;
}

/* ---- ops ---- */

static cs_status launch(cs_plugin_stream *stream, const clc_plan *plan, cs_error *error) {
  const cs_status status = enter(stream, LANE_COMPUTE, error);
  if (status != CS_OK) return status;
  return level_zero_append_plan(stream->common.device, stream->kernels,
                                stream->lanes.lists[LANE_COMPUTE], plan, error);
}

typedef struct recording {
  level_zero_root *root; /* retained */
  ze_command_list_handle_t list;
} recording;

static void discard(void *pointer) {
  recording *recorded = pointer;
  const cs_host *host = recorded->root->host;
  level_zero_destroy_begin(recorded->root);
  if (recorded->list) recorded->root->api.zeCommandListDestroy(recorded->list);
  level_zero_destroy_end(recorded->root);
  level_zero_root_release(recorded->root);
  host->deallocate(host->context, recorded);
}

static cs_status record_list(cs_plugin_device *device, const clc_plan *plan,
                             ze_command_list_handle_t *out, cs_error *error) {
  const level_zero_api *api = &device->root->api;
  const ze_command_list_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_COMMAND_LIST_DESC,
                                       .commandQueueGroupOrdinal = device->compute_ordinal};
  LEVEL_ZERO_CREATE(device->root, zeCommandListCreate, device->context, device->found.device, &desc,
                    out);
  pthread_mutex_lock(&device->record_mutex);
  const cs_status status = level_zero_append_plan(device, device->kernels, *out, plan, error);
  pthread_mutex_unlock(&device->record_mutex);
  if (status != CS_OK) return status;
  LEVEL_ZERO_TRY(api, zeCommandListClose, *out);
  return CS_OK;
}

static cs_status record(cs_plugin_device *device, const clc_plan *plan, void **out,
                        cs_error *error) {
  const cs_host *host = device->common.sdk.host;
  recording *recorded = host->allocate(host->context, sizeof *recorded, 16);
  if (!recorded) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  *recorded = (recording){.root = device->root};
  level_zero_root_retain(device->root);
  const cs_status status = record_list(device, plan, &recorded->list, error);
  if (status != CS_OK)
    discard(recorded);
  else
    *out = recorded;
  return status;
}

static cs_status replay(cs_plugin_stream *stream, void *pointer, cs_error *error) {
  recording *recorded = pointer;
  const cs_status status = enter(stream, LANE_REPLAY, error);
  if (status != CS_OK) return status;
  return level_zero_lanes_replay(&stream->lanes, recorded->list, error);
}

/* ---- starting and finishing ---- */

cs_status level_zero_stream_start(cs_plugin_stream *stream, cs_error *error) {
  const cs_plugin_device *device = stream->common.device;
  stream->root = device->root;
  stream->context = device->context;
  const cs_status status = level_zero_lanes_create(device, &stream->lanes, error);
  if (status == CS_OK) level_zero_root_retain(stream->root);
  return status;
}

/* What the device still uses after the limit is left to it. */
void level_zero_stream_finish(cs_plugin_stream *stream) {
  level_zero_root *root = stream->root;
  cs_error ignored = CS_ERROR_INIT;
  if (level_zero_lanes_wait(&stream->lanes, FINISH_LIMIT_NS, &ignored) == CS_TIMEOUT) return;
  level_zero_lanes_destroy(&stream->lanes);
  level_zero_kernels_destroy(root, stream->kernels);
  if (stream->staging) root->api.zeMemFree(stream->context, stream->staging);
  level_zero_root_release(root);
}

const clc_driver level_zero_driver = {
    .sdk = {CLC_DRIVER_SHARED, .stream_bytes = sizeof(cs_plugin_stream),
            .start = level_zero_stream_start, .finish = level_zero_stream_finish,
            .drain = level_zero_stream_drain, .upload = upload, .download = download,
            .copy = copy_within, .fill = fill},
    .module_require = level_zero_module_require,
    .memory_allocate = level_zero_memory_allocate,
    .memory_free = level_zero_memory_free,
    .memory_pack = level_zero_memory_pack,
    .launch = launch,
    .record = record,
    .discard = discard,
    .replay = replay};
